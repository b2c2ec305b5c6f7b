/*
 * The draft of one series: what is drawn and not saved, kept on the server so that it outlives the page.
 *
 * A draft is sent at once, in the same breath in which it is handed over, so that it also leaves a page that is being
 * left. Its step tells the server which of two that are on their way is the later one.
 */

import { runBytes } from './history.js';
import { ask } from './server.js';

const PATH = '/itermask3d/draft';
const OUTLIVES_BYTES = 60000; // of all that is on its way, a browser sends no more for a page that is being left
const PAGE = `${Date.now()}${Math.random()}`; // steps of one page only can be told apart
let steps = 0;
let leaving = 0; // bytes on their way that outlive the page

export class Draft {
  /** told: hears why the server did not take a draft, and '' once it took it. */
  constructor(uid, told) {
    this.uid = uid;
    this.told = told;
    this.mine = false; // whether an earlier visit's draft was looked for and answered
    this.drawing = null; // what the server shall keep and is not known to have
    this.underway = 0;
    this.trouble = ''; // why the server did not take it
  }

  /** What an earlier visit left: {mask, when}; null without one. Until it is answered, none takes its place. */
  async find() {
    const response = await ask(PATH, { image: this.uid });
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

  /** drawing: a mask as runs, as encoded() gives it. */
  keep(drawing) {
    this.drawing = drawing;
    this.send();
  }

  /** Send what the server does not have yet, also once more where it did not take it. */
  send() {
    if (this.mine && this.drawing) {
      this.put(this.drawing);
    }
  }

  /** Let the server forget it; an earlier visit's stays until it is answered. */
  async drop() {
    this.drawing = null;
    if (this.mine) {
      await ask(PATH, this.query(), { method: 'DELETE' });
    }
  }

  /** The server has forgotten it; a draft that is on its way goes too. */
  async dropped() {
    this.drawing = null;
    if (this.underway) {
      await this.drop();
    }
  }

  async put(drawing) {
    const bytes = runBytes(drawing);
    const outlives = leaving + bytes.length < OUTLIVES_BYTES ? bytes.length : 0;
    const body = new FormData();
    body.append('label', new Blob([bytes]), 'label.runs');
    leaving += outlives;
    this.underway += 1;
    try {
      await ask(PATH, this.query(), { method: 'PUT', body, keepalive: outlives > 0 });
      this.drawing = this.drawing === drawing ? null : this.drawing;
      this.say('');
    } catch (error) {
      this.say(error.message);
    } finally {
      leaving -= outlives;
      this.underway -= 1;
    }
  }

  query() {
    steps += 1;
    return { image: this.uid, page: PAGE, step: steps };
  }

  say(sentence) {
    if (sentence || this.trouble) {
      this.told(sentence);
    }
    this.trouble = sentence;
  }
}
