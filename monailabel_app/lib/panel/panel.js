/*
 * The panel in OHIF: what IterMask3D found in the series shown, progress, refinement and saving.
 */

import { advise } from './advice.js';
import { answerParts, centreOf, changeSentence, firstRegion } from './answer.js';
import { listen } from './keys.js';
import { build, question } from './layout.js';
import { showOverlay } from './overlay.js';
import { make, say } from './parts.js';
import { CANCELLED, SILENT, askBytes, askJson, form } from './server.js';
import { show } from './show.js';
import * as viewer from './viewer.js';
import * as work from './work.js';

const MODEL = 'itermask3d';
const POLL_MS = { busy: 1000, idle: 3000 };
const FOLLOW_MS = 400;
const REPAINT_MS = 1500; // OHIF's MONAI Label panel colours its segments a moment after an answer

const state = {
  series: null, // what the active viewport shows
  result: null, // params of the last run on it
  overlay: 'scan', // what lies over it
  opened: new Set(), // series whose result was shown once
  seenRun: null, // id of the last finished run that was taken note of
  working: '', // what this page is doing
  note: '', // how its last action ended
  running: null, // what the server runs
  waits: false, // whether a run on the series waits for its turn
  isSilent: false, // whether the server did not answer the last question after its status
  heard: Promise.resolve(), // questions after the status go one after the other
};
const ui = build({
  find: () => replace('Looking for anomalies', find),
  show: () => replace('Loading the mask', showMask),
  brush: () => act('Preparing the brush', series => pick(series, viewer.BRUSH)),
  eraser: () => act('Preparing the eraser', series => pick(series, viewer.ERASER)),
  resize: radius_mm => viewer.setBrushRadius(radius_mm),
  undo: () => act('Taking it back', series => step(series, 'undo')),
  redo: () => act('Repeating it', series => step(series, 'redo')),
  refine: () => act('Refining', refine),
  cancel: () => cancel(),
  better: () => act('Showing the series', () => viewer.showSeries(ui.better.value)),
  save: () => act('Saving', save),
  overlay: kind => act('Changing the view', series => look(series, kind)),
});

async function labels() {
  ui.labels = ui.labels || viewer.segmentLabels(await askJson('/info/'));
  return ui.labels;
}

/** Run one action at a time; how it ends becomes a sentence in the panel. */
async function act(sentence, action) {
  const { series } = state;
  if (state.working || !series) {
    return;
  }
  Object.assign(state, { working: sentence, note: '' });
  say(ui.error, '');
  render();
  schedulePoll(0);
  try {
    const note = await action(series);
    state.note = isShown(series) ? note : '';
  } catch (error) {
    if (error.status === CANCELLED) {
      state.note = 'Cancelled; nothing was changed.';
    } else {
      say(ui.error, error.message);
    }
  } finally {
    state.working = '';
    render();
    edited(); // strokes of meanwhile
  }
}

/** A run that this page asks for; its end is no news then. */
async function run(path, query, body) {
  try {
    return await askJson(path, query, { method: 'POST', body });
  } finally {
    const status = await askJson('/itermask3d/status', { image: query.image }).catch(() => null);
    state.seenRun = status?.finished?.id ?? state.seenRun;
  }
}

async function find(series) {
  const result = await run(`/infer/${MODEL}`, { image: series.uid, output: 'json' }, form(null, ui.choices.run()));
  take(series, result);
  await showMask(series);
  go(firstRegion(result));
  return 'Done: the mask is shown.';
}

async function showMask(series) {
  const mask = await askBytes('/itermask3d/mask', { image: series.uid });
  state.opened.add(series.uid);
  await work.begin(series, mask.length); // what was drawn meanwhile can be brought back
  await viewer.showMask(series, mask, await labels());
  await work.settled(series, state.result, mask);
  if (state.overlay !== 'scan') {
    await look(series, state.overlay); // that of the new result
  }
  return 'The mask is shown.';
}

/** Do what would replace a person's drawing, if nothing unsaved would be lost or the person does not mind. */
async function replace(sentence, action) {
  const { series, working } = state;
  const replaced = 'Your drawing is not saved. Replace it?';
  if (series && !working && (!work.isUnsaved(series) || (await question(ui, replaced, 'Replace it', 'Keep it')))) {
    await act(sentence, action);
  }
}

/** Take back or repeat a stroke, a refinement or a run, with what the panel said then. */
async function step(series, direction) {
  await work.stroked(series, state.result); // a stroke that was not noted yet is the first to be taken back
  const answer = await work.step(series, direction, await labels());
  if (answer !== undefined) {
    take(series, answer);
  }
  return answer === undefined ? 'There is nothing more to take back.' : '';
}

/**
 * Take note of what was drawn; a mask that another panel's run brought is no drawing. What changes while the server is
 * asked waits for the next call, which asks again: it may be the mask of a run that had not ended before. So does what
 * is drawn while the panel works.
 */
async function edited() {
  const { series } = state;
  if (!series || state.working) {
    return;
  }
  const seen = viewer.editCount();
  const isCurrent = () => viewer.editCount() === seen;
  await hear();
  if (state.result && !work.knowsHeld(series)) {
    await hold(series);
  }
  if (isShown(series) && !state.working) {
    const isNew = await work.stroked(series, state.result, isCurrent);
    viewer.noteEdits(seen);
    if (isNew) {
      render();
    }
  }
}

async function hold(series) {
  const mask = await askBytes('/itermask3d/mask', { image: series.uid }).catch(() => null);
  if (mask) {
    work.hold(series, mask);
  }
}

/** Offer what was drawn on an earlier visit and not saved. */
async function offerDraft(series) {
  const draft = await work.findDraft(series);
  if (!draft || !isShown(series)) {
    return;
  }
  const time = draft.when.toLocaleString([], { dateStyle: 'medium', timeStyle: 'short' });
  if (await question(ui, `A drawing of ${time} was not saved.`, 'Restore it', 'Discard it')) {
    await act('Restoring the drawing', async () => {
      if (!(await viewer.isLoaded(series))) {
        throw new Error('The scan is not there yet; reload the page to restore the drawing.');
      }
      await work.restore(series, draft, await labels(), state.result);
      return 'Your drawing is back; it is still not saved.';
    });
  } else {
    await work.discard(series);
  }
}

/** Show an earlier result as soon as the scan is there: its mask, at its most severe region. */
async function open(series) {
  if (state.opened.has(series.uid) || viewer.hasSegmentation(series)) {
    return;
  }
  state.opened.add(series.uid);
  if ((await viewer.isLoaded(series)) && isShown(series) && !state.working && !viewer.hasSegmentation(series)) {
    await act('Loading the mask', showMask);
    go(firstRegion(state.result));
  }
}

/** Lay over the scan what the model expected, or how far that is from it. */
async function look(series, kind) {
  state.overlay = 'scan';
  try {
    const remark = await showOverlay(series, kind);
    state.overlay = kind;
    return remark;
  } finally {
    chooseOverlay(state.overlay);
  }
}

function chooseOverlay(kind) {
  ui.overlays.querySelectorAll('input').forEach(choice => (choice.checked = choice.value === kind));
}

async function refine(series) {
  const body = form(await viewer.drawnMask(series), { keep_drawn: ui.keep.checked, ...ui.choices.refinement() });
  const result = await run('/itermask3d/refine', { image: series.uid }, body);
  take(series, result);
  await showMask(series);
  return changeSentence(result.change);
}

/** End the run on the series shown, also while it waits for its turn; whoever asked for it is told. */
async function cancel() {
  ui.cancel.disabled = true;
  const image = state.series.uid;
  await askJson('/itermask3d/cancel', { image }, { method: 'POST' }).catch(error => say(ui.error, error.message));
}

async function save(series) {
  const mask = await viewer.drawnMask(series);
  const query = { image: series.uid, user: ui.user.value.trim() };
  const saved = await askJson('/itermask3d/save', query, { method: 'POST', body: form(mask) });
  await work.saved(series, mask);
  const where = saved.seg_series_uid ? `in the PACS as series ${saved.seg_series_uid}` : 'in the datastore';
  const said = saved.empty ? `Empty mask saved: no finding, ${where}.` : `Mask saved ${where}.`;
  return [said, ...(saved.warnings || [])].join(' ');
}

async function pick(series, tool) {
  const next = viewer.toolInUse(series) === tool ? viewer.NO_BRUSH : tool;
  await viewer.useTool(series, next, await labels());
  viewer.setBrushRadius(ui.radius.valueAsNumber);
  return '';
}

function go(region) {
  if (region) {
    viewer.jumpTo(centreOf(region));
  }
}

function isShown(series) {
  return state.series?.uid === series.uid;
}

function take(series, result) {
  if (isShown(series)) {
    state.result = result;
    renderResult();
    render();
  }
}

/** Take the place that OHIF gives. */
function settle() {
  window.itermask3dDock?.place?.append(ui.card);
}

function render() {
  show(ui, state);
}

function renderResult() {
  const found = state.result;
  const none = () => [make('p', 'empty', 'No result for this series yet.')];
  ui.result.replaceChildren(...(found ? answerParts(found, state.series, go) : none()));
}

function follow() {
  ui.heard ||= viewer.onEdit(edited);
  const { series: before, result } = state;
  state.series = viewer.activeSeries();
  if (state.series?.uid !== before?.uid) {
    leave(before, result);
    Object.assign(state, { result: null, note: '', overlay: 'scan' });
    chooseOverlay('scan');
    ui.question.hidden = true;
    say(ui.error, '');
    say(ui.hint, '');
    ui.better.hidden = true;
    renderResult();
    if (state.series) {
      load(state.series);
      advise(ui, state.series, isShown);
    }
  }
  render();
}

/** Another series is shown: the last stroke on the one before becomes a draft, too. */
function leave(series, result) {
  if (series && viewer.isEditPending()) {
    viewer.noteEdits(viewer.editCount());
    work.stroked(series, result).catch(() => {}); // it is gone from the viewer
  }
}

async function load(series) {
  try {
    const status = await askJson('/itermask3d/status', { image: series.uid });
    state.seenRun ??= status.finished?.id ?? 0; // first: a run that ends from now on is news
    const result = await askJson('/itermask3d/result', { image: series.uid });
    take(series, result);
    if (status.failure && isShown(series)) {
      say(ui.error, `The last run failed: ${status.failure}`); // also after the page was loaded again
    }
    if (result) {
      await open(series);
    }
    await offerDraft(series);
  } catch (error) {
    say(ui.error, error.message);
  }
}

async function poll() {
  if (state.series && !document.hidden) {
    await hear();
    render();
  }
  schedulePoll(state.working || state.running ? POLL_MS.busy : POLL_MS.idle);
}

/** Ask what the server does, and take note of what has changed. */
function hear() {
  state.heard = state.heard.then(async () => {
    const { series } = state;
    const status = series && (await askJson('/itermask3d/status', { image: series.uid }).catch(noteSilence));
    if (status) {
      Object.assign(state, { running: status.running, waits: Boolean(status.waits) });
      noteAnswer(series);
      await noteFinished(series, status.finished);
    }
  });
  return state.heard;
}

function noteSilence(error) {
  Object.assign(state, { running: null, waits: false });
  if (error.message === SILENT) {
    state.isSilent = true;
    say(ui.error, SILENT);
  }
}

/** Where the server is back, it gets the drawings that it did not take, and is asked what it did not tell. */
function noteAnswer(series) {
  if (state.isSilent) {
    state.isSilent = false;
    say(ui.error, ui.error.textContent === SILENT ? '' : ui.error.textContent);
    work.sendAll();
    load(series);
  }
}

/** Fetch a result that somebody else asked for, such as OHIF's own MONAI Label panel. */
async function noteFinished(series, finished) {
  const id = finished?.id || 0;
  const isNew = state.seenRun !== null && id !== state.seenRun;
  if (isNew && state.working) {
    return; // afterwards
  }
  state.seenRun = id;
  if (!isNew || finished?.image !== series.uid || !isShown(series)) {
    return;
  }
  if (finished.ok) {
    state.opened.add(series.uid); // whoever asked shows the mask
    await hold(series);
    load(series);
    setTimeout(() => isShown(series) && viewer.paintBands(series), REPAINT_MS);
  } else {
    say(ui.error, finished.message || 'The run failed; the log of the server says why.');
  }
}

function schedulePoll(delay) {
  clearTimeout(ui.timer);
  ui.timer = setTimeout(poll, delay);
}

viewer.setServerCookie();
settle();
window.addEventListener('itermask3d-dock', settle);
listen(ui, () => state.series, direction => act('Taking it back', series => step(series, direction)));
window.addEventListener('beforeunload', event => {
  if (viewer.isEditPending() && state.series) {
    work.stroked(state.series, state.result); // the last stroke becomes a draft, too
    event.preventDefault();
  }
  if (work.isAnythingUnsaved()) {
    event.preventDefault(); // the browser asks
  }
});
work.onTrouble((series, sentence) => isShown(series) && say(ui.error, sentence));
follow();
setInterval(follow, FOLLOW_MS);
schedulePoll(0);
