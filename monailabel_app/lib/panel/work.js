/*
 * A person's work on the masks: what can be undone, whether it is unsaved, and the draft on the server that outlives a
 * reload of the page.
 */

import { History } from './history.js';
import { ask } from './server.js';
import * as viewer from './viewer.js';

const DRAFT_MS = 500; // after the last stroke
const DRAFT = '/itermask3d/draft';
const kept = new Map(); // by series

function workOn(series) {
  if (!kept.has(series.uid)) {
    kept.set(series.uid, { history: new History(), unsaved: false, offered: false, timer: null });
  }
  return kept.get(series.uid);
}

export function isUnsaved(series) {
  return workOn(series).unsaved;
}

export function isAnythingUnsaved() {
  return [...kept.values()].some(work => work.unsaved);
}

export function steps(series) {
  const { past, future } = workOn(series).history;
  return { undo: past.length, redo: future.length };
}

/** Take note of what is about to be replaced, also of nothing, so that it can be brought back. */
export async function begin(series, length) {
  const { history } = workOn(series);
  history.record((await viewer.maskNow(series)) || new Uint8Array(length), history.present?.answer ?? null);
}

/** What is shown now is what the server holds: nothing of it can be lost. */
export async function settled(series, answer) {
  const work = workOn(series);
  work.history.record((await viewer.maskNow(series)) || new Uint8Array(), answer);
  if (work.unsaved) {
    discard(series);
  }
}

/** Take note of strokes; whether there were any. */
export async function stroked(series, answer) {
  const mask = await viewer.maskNow(series);
  const work = workOn(series);
  if (!mask) {
    return false;
  }
  if (!work.history.present) {
    work.history.record(new Uint8Array(mask.length), answer);
  }
  if (!work.history.record(mask, answer)) {
    return false;
  }
  changed(series, mask);
  return true;
}

/** Show the mask before or after, 'undo' or 'redo'; the answer that stood beside it, undefined where there is none. */
export async function step(series, direction, labels) {
  const entry = workOn(series).history[direction]();
  if (!entry) {
    return undefined;
  }
  await viewer.showMask(series, entry.mask, labels);
  changed(series, entry.mask);
  return entry.answer;
}

/** The server has the drawing now, and has dropped its draft. */
export function saved(series) {
  const work = workOn(series);
  clearTimeout(work.timer);
  Object.assign(work, { unsaved: false, offered: false });
}

/** A draft of an earlier visit: {mask, when}; null without one. */
export async function findDraft(series) {
  const response = await ask(DRAFT, { image: series.uid });
  if (response.status === 204) {
    return null;
  }
  workOn(series).offered = true; // until it is answered, no newer draft takes its place
  const mask = new Uint8Array(await response.arrayBuffer());
  return { mask, when: new Date(response.headers.get('X-Kept')) };
}

/** Show a draft; it is still unsaved, and stays on the server. */
export async function restore(series, draft, labels, answer) {
  await viewer.showMask(series, draft.mask, labels);
  const work = workOn(series);
  work.offered = false;
  work.history.record(draft.mask, answer);
  changed(series, draft.mask);
}

/** Forget what is unsaved. */
export async function discard(series) {
  saved(series);
  await ask(DRAFT, { image: series.uid }, { method: 'DELETE' });
}

function changed(series, mask) {
  const work = workOn(series);
  work.unsaved = true;
  clearTimeout(work.timer);
  work.timer = setTimeout(() => keepDraft(series, mask), DRAFT_MS);
}

async function keepDraft(series, mask) {
  if (workOn(series).offered) {
    return;
  }
  const stream = new Blob([mask]).stream().pipeThrough(new CompressionStream('gzip'));
  const body = new FormData();
  body.append('label', await new Response(stream).blob(), 'label.bin.gz');
  await ask(DRAFT, { image: series.uid }, { method: 'PUT', body }).catch(error => console.warn(error.message));
}
