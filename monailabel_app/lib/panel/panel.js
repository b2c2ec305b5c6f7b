/*
 * The panel in OHIF: what IterMask3D found in the series shown, progress, refinement and saving.
 */

import { answerParts, centreOf, firstRegion, legend } from './answer.js';
import { button, make, number, say } from './parts.js';
import { askBytes, askJson, form } from './server.js';
import * as viewer from './viewer.js';

const MODEL = 'itermask3d';
const POLL_MS = { busy: 1000, idle: 3000 };
const FOLLOW_MS = 400;
const REPAINT_MS = 1500; // OHIF's MONAI Label panel colours its segments a moment after an answer
const [BRUSH, ERASER, NO_BRUSH] = ['SphereBrush', 'SphereEraser', 'WindowLevel'];
const SHORTCUT = 'Alt+P';
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
  opened: new Set(), // series whose result was shown once
  seenRun: null, // id of the last finished run that was taken note of
  working: '', // what this page is doing
  note: '', // how its last action ended
  running: null, // what the server runs
};
const ui = {};

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
    say(ui.error, error.message);
  } finally {
    state.working = '';
    render();
  }
}

async function find(series) {
  const query = { image: series.uid, output: 'json' };
  const result = await askJson(`/infer/${MODEL}`, query, { method: 'POST', body: form() });
  take(series, result);
  await showMask(series);
  go(firstRegion(result));
  return 'Done: the mask is shown.';
}

async function showMask(series) {
  const mask = await askBytes('/itermask3d/mask', { image: series.uid });
  state.opened.add(series.uid);
  await viewer.showMask(series, mask, await labels());
  return 'The mask is shown.';
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

async function refine(series) {
  const body = form(await viewer.drawnMask(series), { keep_drawn: ui.keep.checked });
  const result = await askJson('/itermask3d/refine', { image: series.uid }, { method: 'POST', body });
  take(series, result);
  await showMask(series);
  return changeSentence(result.change);
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

function build() {
  ui.card = make('section', 'card');
  ui.card.id = 'itermask3d-card';
  ui.card.tabIndex = -1; // the shortcut leads here, the tabulator on to what it holds
  ui.card.setAttribute('aria-label', 'IterMask3D');
  ui.card.setAttribute('aria-keyshortcuts', SHORTCUT);
  ui.card.addEventListener('keydown', event => {
    event.stopPropagation(); // OHIF's hotkeys stay out of the panel
    if (event.key === 'Escape') {
      ui.before?.focus();
    }
  });
  const head = make('p', 'head');
  head.append(make('strong', '', 'IterMask3D'), make('span', 'quiet', 'research use only'), make('kbd', '', SHORTCUT));
  ui.card.append(head, buildTexts(), buildActions());
}

function buildTexts() {
  const scroll = make('div', 'scroll');
  scroll.tabIndex = 0; // so that the keyboard can scroll it
  scroll.setAttribute('role', 'group');
  scroll.setAttribute('aria-label', 'Result');
  for (const name of ['series', 'hint', 'status', 'error']) {
    ui[name] = make('p', name);
  }
  ui.status.setAttribute('role', 'status');
  ui.error.setAttribute('role', 'alert');
  ui.bar = make('progress', 'bar');
  ui.bar.setAttribute('aria-label', 'Progress of the run');
  ui.result = make('div', 'result');
  scroll.append(ui.series, ui.hint, ui.status, ui.bar, ui.error, ui.result);
  return scroll;
}

function buildActions() {
  const actions = make('div', 'actions');
  ui.find = button('Find anomalies', () => act('Looking for anomalies', find), 'button primary');
  ui.show = button('Show mask', () => act('Loading the mask', showMask));
  ui.brush = button('Brush', () => act('Preparing the brush', series => pick(series, BRUSH)));
  ui.eraser = button('Eraser', () => act('Preparing the eraser', series => pick(series, ERASER)));
  ui.radius = make('input', 'radius');
  Object.assign(ui.radius, { type: 'range', min: 2, max: 25, step: 1, value: 8, title: 'Size of the brush' });
  ui.radius.setAttribute('aria-label', 'Radius of the brush in millimetres');
  ui.radius.addEventListener('input', () => viewer.setBrushRadius(ui.radius.valueAsNumber));
  ui.refine = button('Refine from my edit', () => act('Refining', refine));
  ui.keep = make('input');
  ui.keep.type = 'checkbox';
  const keep = make('label', 'keep', 'Keep all that I drew');
  keep.prepend(ui.keep);
  ui.report = make('a', 'button', 'Open report');
  ui.report.target = '_blank';
  ui.report.rel = 'noopener';
  ui.save = button('Save to PACS', () => act('Saving', save));
  const rows = [[ui.find, ui.show], [ui.brush, ui.eraser, ui.radius], [keep], [ui.refine], [buildUser(), ui.save]];
  for (const row of [...rows, [ui.report]]) {
    const box = make('div', 'row');
    box.append(...row);
    actions.append(box);
  }
  actions.prepend(legend());
  return actions;
}

function buildUser() {
  ui.user = make('input', 'user');
  Object.assign(ui.user, { type: 'text', maxLength: 64, placeholder: 'Your name', autocomplete: 'name' });
  ui.user.setAttribute('aria-label', 'Your name, stored with the saved mask');
  ui.user.value = localStorage.getItem('itermask3d.user') || '';
  ui.user.addEventListener('change', () => localStorage.setItem('itermask3d.user', ui.user.value.trim()));
  return ui.user;
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
  ui.bar.hidden = !state.working && !mine;
  setProgress(mine);
  for (const element of [ui.find, ui.show, ui.brush, ui.eraser, ui.refine, ui.save]) {
    element.disabled = Boolean(state.working || mine);
  }
  const tool = viewer.toolInUse(state.series);
  ui.brush.setAttribute('aria-pressed', String(tool === BRUSH));
  ui.eraser.setAttribute('aria-pressed', String(tool === ERASER));
  ui.show.hidden = ui.report.hidden = !state.result;
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

function setProgress(run) {
  if (run?.total > 1) {
    Object.assign(ui.bar, { max: run.total, value: run.done });
    ui.bar.title = `${run.done} of ${run.total}`;
  } else {
    ui.bar.removeAttribute('value');
    ui.bar.title = '';
  }
}

function renderResult() {
  const found = state.result;
  const none = () => [make('p', 'empty', 'No result for this series yet.')];
  ui.result.replaceChildren(...(found ? answerParts(found, state.series, go) : none()));
}

function follow() {
  const before = state.series?.uid;
  state.series = viewer.activeSeries();
  if (state.series?.uid !== before) {
    Object.assign(state, { result: null, note: '' });
    say(ui.error, '');
    say(ui.hint, '');
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
    if (result) {
      await open(series);
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
  }
}

async function poll() {
  if (state.series && !document.hidden) {
    const status = await askJson('/itermask3d/status').catch(() => null); // an action says what is wrong, not a poll
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
build();
settle();
window.addEventListener('itermask3d-dock', settle);
window.addEventListener('keydown', reach, { capture: true });
follow();
setInterval(follow, FOLLOW_MS);
schedulePoll(0);
