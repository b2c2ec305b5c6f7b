/*
 * A person's work on the masks: what can be undone, whether it is unsaved, and its draft on the server.
 */

import { Draft } from './draft.js';
import { History, encoded, same } from './history.js';
import * as viewer from './viewer.js';

const [SAVED_AS, DRAWN] = [1, 4]; // a stroke is told apart from the bands only until the server has it
const kept = new Map(); // by series
let told = () => {};

function workOn(series) {
  const { uid } = series;
  if (!kept.has(uid)) {
    const draft = new Draft(uid, sentence => told(series, sentence));
    kept.set(uid, { history: new History(), held: null, unsaved: false, draft });
  }
  return kept.get(uid);
}

/** Who hears of a draft that the server did not take, and of the next that it took: (series, sentence or ''). */
export function onTrouble(hear) {
  told = hear;
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

/** A mask of the server has taken the place of what was drawn, as the person wished. */
export async function settled(series, answer, mask) {
  const work = workOn(series);
  hold(series, mask);
  work.history.record((await viewer.maskNow(series)) || mask, answer);
  if (work.unsaved) {
    work.unsaved = false;
    await work.draft.drop();
  }
}

/** Take note of the mask that the server holds: shown, it is no drawing. What is drawn stays as it is. */
export function hold(series, mask) {
  workOn(series).held = encoded(asSaved(mask));
}

export function knowsHeld(series) {
  return Boolean(workOn(series).held);
}

/** Take note of strokes, unless what is shown is no longer what the caller knows of; whether there were any. */
export async function stroked(series, answer, isCurrent = () => true) {
  const mask = await viewer.maskNow(series);
  const work = workOn(series);
  if (!mask || !isCurrent()) {
    return false;
  }
  if (!work.history.present) {
    work.history.record(new Uint8Array(mask.length), answer);
  }
  if (!work.history.record(mask, answer)) {
    return false;
  }
  work.unsaved = !isHeld(work, mask);
  if (work.unsaved) {
    work.draft.keep(work.history.present.mask); // else another panel shows a result: strokes that it replaced stay a draft
  }
  return true;
}

/** Show the mask before or after, 'undo' or 'redo'; the answer that stood beside it, undefined where there is none. */
export async function step(series, direction, labels) {
  const work = workOn(series);
  const entry = work.history[direction]();
  if (!entry) {
    return undefined;
  }
  await viewer.showMask(series, entry.mask, labels);
  work.unsaved = !isHeld(work, entry.mask);
  if (work.unsaved) {
    work.draft.keep(work.history.present.mask);
  } else {
    work.draft.drop().catch(() => {}); // the next step need not wait; a draft that stays is offered again
  }
  return entry.answer;
}

/** The server has the drawing now, and has dropped its draft. */
export async function saved(series, mask) {
  const work = workOn(series);
  hold(series, mask);
  work.unsaved = false;
  await work.draft.dropped();
  work.draft.own();
}

/** A draft of an earlier visit that nobody has answered: {mask, when}; null without one. */
export async function findDraft(series) {
  const { draft } = workOn(series);
  return draft.mine ? null : draft.find();
}

/** Show a draft; it is still unsaved, and stays on the server. */
export async function restore(series, draft, labels, answer) {
  await begin(series, draft.mask.length);
  await viewer.showMask(series, draft.mask, labels);
  const work = workOn(series);
  work.history.record(draft.mask, answer);
  work.unsaved = true;
  work.draft.drawing = null; // the server has it
  work.draft.own();
}

/** Forget an earlier visit's draft; what was drawn since takes its place. */
export async function discard(series) {
  const { draft } = workOn(series);
  const { drawing } = draft;
  draft.own();
  if (!drawing) {
    await draft.drop();
  }
}

/** Send every drawing that the server does not have yet. */
export function sendAll() {
  kept.forEach(work => work.draft.send());
}

function isHeld(work, mask) {
  return work.held ? same(work.held, encoded(asSaved(mask))) : !mask.some(Boolean);
}

function asSaved(mask) {
  return mask.map(band => (band === DRAWN ? SAVED_AS : band));
}
