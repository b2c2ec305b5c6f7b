/*
 * The panel in OHIF: what IterMask3D found in the series shown, progress, refinement and saving.
 */

import { answerParts, centreOf, firstRegion } from './answer.js';
import { build, question } from './layout.js';
import { showOverlay } from './overlay.js';
import { make, number, say } from './parts.js';
import { CANCELLED, askBytes, askJson, form } from './server.js';
import * as viewer from './viewer.js';
import * as work from './work.js';

const MODEL = 'itermask3d';
const POLL_MS = { busy: 1000, idle: 3000 };
const FOLLOW_MS = 400;
const REPAINT_MS = 1500; // OHIF's MONAI Label panel colours its segments a moment after an answer
const [BRUSH, ERASER, NO_BRUSH] = ['SphereBrush', 'SphereEraser', 'WindowLevel'];
const PHASES = {
  reading: 'Reading the scan',
  'brain extraction': 'Finding the brain',
  sweep: 'Sweeping the mask',
  shrink: 'Shrinking the mask',
  writing: 'Writing the result',
};

const state = {
  series: null, // what the active viewport shows
  result: null, // params of the last run on it
  overlay: 'scan', // what lies over it
  opened: new Set(), // series whose result was shown once
  seenRun: null, // id of the last finished run that was taken note of
  working: '', // what this page is doing
  note: '', // how its last action ended
  running: null, // what the server runs
};
const ui = build({
  find: () => replace('Looking for anomalies', find),
  show: () => replace('Loading the mask', showMask),
  brush: () => act('Preparing the brush', series => pick(series, BRUSH)),
  eraser: () => act('Preparing the eraser', series => pick(series, ERASER)),
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
  }
}

async function find(series) {
  const query = { image: series.uid, output: 'json' };
  const result = await askJson(`/infer/${MODEL}`, query, { method: 'POST', body: form(null, ui.choices.run()) });
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
  await work.settled(series, state.result);
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

function undoByKeyboard(event) {
  const key = event.key.toLowerCase();
  const direction = key === 'y' || (key === 'z' && event.shiftKey) ? 'redo' : key === 'z' ? 'undo' : '';
  const writing = /^(input|textarea)$/i.test(event.target.tagName) && event.target.type !== 'range';
  if (!direction || !(event.ctrlKey || event.metaKey) || event.altKey || !state.series || writing) {
    return;
  }
  event.preventDefault();
  event.stopPropagation();
  act('Taking it back', series => step(series, direction));
}

async function edited() {
  const { series, result } = state;
  if (series && !state.working && (await work.stroked(series, result))) {
    render();
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
  const result = await askJson('/itermask3d/refine', { image: series.uid }, { method: 'POST', body });
  take(series, result);
  await showMask(series);
  return changeSentence(result.change);
}

/** End the run on the series shown; whoever asked for it is told. */
async function cancel() {
  ui.cancel.disabled = true;
  const image = state.series.uid;
  await askJson('/itermask3d/cancel', { image }, { method: 'POST' }).catch(error => say(ui.error, error.message));
}

/** What a refinement made of the mask before and of what was drawn. */
function changeSentence(change) {
  if (!change) {
    return 'Refined from your edit.';
  }
  const kept = `${number(change.kept_ml, 1)} of ${number(change.drawn_ml, 1)} ml of your drawing kept`;
  const drawn = change.drawn_ml ? `, ${kept}` : '';
  return `Refined: +${number(change.added_ml, 1)} ml, −${number(change.removed_ml, 1)} ml${drawn}.`;
}

async function save(series) {
  const body = form(await viewer.drawnMask(series));
  const query = { image: series.uid, user: ui.user.value.trim() };
  const saved = await askJson('/itermask3d/save', query, { method: 'POST', body });
  work.saved(series);
  const where = saved.seg_series_uid ? `in the PACS as series ${saved.seg_series_uid}` : 'in the datastore';
  const said = saved.empty ? `Empty mask saved: no finding, ${where}.` : `Mask saved ${where}.`;
  return [said, ...(saved.warnings || [])].join(' ');
}

async function pick(series, tool) {
  const next = viewer.toolInUse(series) === tool ? NO_BRUSH : tool;
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

/** To the panel from anywhere on the page, also where OHIF has folded it. */
function reach(event) {
  if (!event.altKey || event.ctrlKey || event.metaKey || event.code !== 'KeyP') {
    return;
  }
  event.preventDefault();
  event.stopPropagation();
  if (!ui.card.contains(document.activeElement)) {
    ui.before = document.activeElement;
  }
  if (!ui.card.isConnected) {
    window.addEventListener('itermask3d-dock', () => ui.card.focus(), { once: true });
    window.itermask3dDock?.open();
  }
  ui.card.focus();
}

function render() {
  ui.card.hidden = !state.series;
  if (!state.series) {
    return;
  }
  const mine = state.running?.image === state.series.uid ? state.running : null;
  say(ui.series, `Series: ${state.series.description}`);
  say(ui.status, statusSentence(mine));
  ui.progress.hidden = !state.working && !mine;
  setProgress(mine);
  for (const element of [ui.find, ui.show, ui.brush, ui.eraser, ui.undo, ui.redo, ui.refine, ui.save]) {
    element.disabled = Boolean(state.working || mine);
  }
  const { undo, redo } = work.steps(state.series);
  ui.undo.disabled ||= !undo;
  ui.redo.disabled ||= !redo;
  const tool = viewer.toolInUse(state.series);
  ui.brush.setAttribute('aria-pressed', String(tool === BRUSH));
  ui.eraser.setAttribute('aria-pressed', String(tool === ERASER));
  ui.show.hidden = ui.report.hidden = ui.overlays.hidden = !state.result;
  ui.overlays.disabled = Boolean(state.working || mine);
  ui.report.href = `/itermask3d/report?${new URLSearchParams({ image: state.series.uid })}`;
}

/** The phase alone: a screen reader reads each change out. The bar holds the figures. */
function statusSentence(mine) {
  if (mine) {
    return PHASES[mine.phase] || mine.phase;
  }
  if (state.working) {
    return state.running ? `${state.working}: waiting for another run to end` : `${state.working} …`;
  }
  return state.note;
}

/** One bar for the whole run; what is not a run of the server has no measure. */
function setProgress(run) {
  if (run) {
    Object.assign(ui.bar, { max: 1, value: run.share ?? 0 });
  } else {
    ui.bar.removeAttribute('value');
  }
  say(ui.left, Number.isFinite(run?.seconds_left) ? `about ${timeLeft(run.seconds_left)} left` : '');
  ui.cancel.hidden = !run;
  ui.cancel.disabled = Boolean(run?.cancelled);
}

function timeLeft(seconds) {
  return seconds < 90 ? `${Math.ceil(seconds / 5) * 5} s` : `${Math.ceil(seconds / 60)} min`;
}

function renderResult() {
  const found = state.result;
  const none = () => [make('p', 'empty', 'No result for this series yet.')];
  ui.result.replaceChildren(...(found ? answerParts(found, state.series, go) : none()));
}

function follow() {
  ui.heard ||= viewer.onEdit(edited);
  const before = state.series?.uid;
  state.series = viewer.activeSeries();
  if (state.series?.uid !== before) {
    Object.assign(state, { result: null, note: '', overlay: 'scan' });
    chooseOverlay('scan');
    ui.question.hidden = true;
    say(ui.error, '');
    say(ui.hint, '');
    ui.better.hidden = true;
    renderResult();
    if (state.series) {
      load(state.series);
      advise(state.series);
    }
  }
  render();
}

async function load(series) {
  try {
    const result = await askJson('/itermask3d/result', { image: series.uid });
    take(series, result);
    const status = await askJson('/itermask3d/status', { image: series.uid });
    if (status.failure && isShown(series)) {
      say(ui.error, `The last run failed: ${status.failure}`); // also after the page was loaded again
    }
    if (result) {
      await open(series);
    }
    if (!work.isUnsaved(series)) {
      await offerDraft(series);
    }
  } catch (error) {
    say(ui.error, error.message);
  }
}

/** Say which other series of the study suits the model better. */
async function advise(series) {
  const advice = await askJson('/itermask3d/series', { study: series.study }).catch(() => null);
  const better = advice?.chosen;
  if (better && better.uid !== series.uid && isShown(series)) {
    const shown = (advice.series || []).find(one => one.uid === series.uid);
    const reason = shown?.reason || '';
    const why = reason.charAt(0).toUpperCase() + reason.slice(1);
    say(ui.hint, `Series ${better.number ?? ''} (${better.description}) suits the model better. ${why}`.trim());
    ui.better.value = better.uid;
    say(ui.better, viewer.isThere(better.uid) ? `Show series ${better.number ?? better.description}` : '');
  }
}

async function poll() {
  if (state.series && !document.hidden) {
    const { uid } = state.series;
    const status = await askJson('/itermask3d/status', { image: uid }).catch(() => null); // an action says what is wrong, not a poll
    state.running = status?.running || null;
    if (status) {
      noteFinished(status.finished);
    }
    render();
  }
  schedulePoll(state.working || state.running ? POLL_MS.busy : POLL_MS.idle);
}

/** Fetch a result that somebody else asked for, such as OHIF's own MONAI Label panel. */
function noteFinished(finished) {
  const id = finished?.id || 0;
  const isNew = state.seenRun !== null && id !== state.seenRun;
  state.seenRun = id;
  if (!isNew || state.working || finished?.image !== state.series?.uid) {
    return;
  }
  if (finished.ok) {
    const { series } = state;
    state.opened.add(series.uid); // whoever asked shows the mask
    load(series);
    setTimeout(async () => {
      if (isShown(series)) {
        viewer.paintBands(series);
        await work.settled(series, state.result);
      }
    }, REPAINT_MS);
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
window.addEventListener('keydown', reach, { capture: true });
window.addEventListener('keydown', undoByKeyboard, { capture: true });
window.addEventListener('beforeunload', event => {
  if (work.isAnythingUnsaved()) {
    event.preventDefault(); // the browser asks
  }
});
follow();
setInterval(follow, FOLLOW_MS);
schedulePoll(0);
