/*
 * The draft of one series: what is drawn and not saved, kept on the server so that it outlives the page.
 */

import { ask } from './server.js';

const PATH = '/itermask3d/draft';
const OUTLIVES_BYTES = 60000; // a browser sends no more for a page that is being left

export class Draft {
  /** told: hears why the server did not take a draft, and '' once it took it. */
  constructor(uid, told) {
    this.query = { image: uid };
    this.told = told;
    this.mine = false; // whether an earlier visit's draft was looked for and answered
    this.mask = null; // what the server shall keep and does not yet
    this.sending = false;
    this.trouble = ''; // why the server did not take it
    this.last = Promise.resolve(); // requests go one after the other
  }

  /** What an earlier visit left: {mask, when}; null without one. Until it is answered, none takes its place. */
  async find() {
    const response = await ask(PATH, this.query);
    if (response.status === 204) {
      this.own();
      return null;
    }
    const mask = new Uint8Array(await response.arrayBuffer());
    return { mask, when: new Date(response.headers.get('X-Kept')) };
  }

  /** From now on what is drawn here may take the place of what the server keeps. */
  own() {
    this.mine = true;
    this.send();
  }

  keep(mask) {
    this.mask = mask;
    this.send();
  }

  /** Send what the server does not have yet, also once more where it did not take it. */
  send() {
    if (this.mine && this.mask) {
      this.queue(() => this.put());
    }
  }

  /** Let the server forget it; an earlier visit's stays until it is answered. */
  async drop() {
    this.mask = null;
    if (this.mine) {
      await this.queue(() => ask(PATH, this.query, { method: 'DELETE' }));
    }
  }

  /** The server has forgotten it; a draft that is on its way goes too. */
  async dropped() {
    this.mask = null;
    if (this.sending) {
      await this.drop();
    }
  }

  async put() {
    const { mask } = this;
    if (!mask) {
      return; // a later one was sent instead, or none is wanted any more
    }
    this.sending = true;
    try {
      const compressed = await compress(mask);
      const body = new FormData();
      body.append('label', compressed, 'label.bin.gz');
      await ask(PATH, this.query, { method: 'PUT', body, keepalive: compressed.size < OUTLIVES_BYTES });
      this.mask = this.mask === mask ? null : this.mask;
      this.say('');
    } catch (error) {
      this.say(error.message);
    } finally {
      this.sending = false;
    }
  }

  say(sentence) {
    if (sentence || this.trouble) {
      this.told(sentence);
    }
    this.trouble = sentence;
  }

  queue(job) {
    this.last = this.last.catch(() => {}).then(job);
    return this.last;
  }
}

function compress(mask) {
  const stream = new Blob([mask]).stream().pipeThrough(new CompressionStream('gzip'));
  return new Response(stream).blob();
}
