/*
 * A card in OHIF: what IterMask3D found in the series shown, progress, refinement and saving.
 *
 * Text from the server only ever becomes textContent.
 */

import * as viewer from './viewer.js';

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
  seenRun: null, // id of the last finished run that was taken note of
  working: '', // what this page is doing
  note: '', // how its last action ended
  running: null, // what the server runs
};
const ui = {};

async function ask(path, query, options) {
  const url = query ? `${path}?${new URLSearchParams(query)}` : path;
  const response = await fetch(url, options).catch(() => {
    throw new Error('The server does not answer; is it still running?');
  });
  if (!response.ok) {
    const { detail } = await response.json().catch(() => ({}));
    throw new Error(typeof detail === 'string' ? detail : `The server answered ${response.status}.`);
  }
  return response;
}

async function askJson(path, query, options) {
  const response = await ask(path, query, options);
  return response.status === 204 ? null : response.json();
}

async function labels() {
  ui.labels = ui.labels || viewer.segmentLabels(await askJson('/info/'));
  return ui.labels;
}

/** Run one action at a time; how it ends becomes a sentence in the card. */
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
  if (result.components?.length) {
    viewer.jumpTo(result.components[0].centroid_mm);
  }
  return 'Done: the mask is shown.';
}

async function showMask(series) {
  const response = await ask('/itermask3d/mask', { image: series.uid });
  await viewer.showMask(series, new Uint8Array(await response.arrayBuffer()), await labels());
  return 'The mask is shown.';
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

function form(mask, params = {}) {
  const body = new FormData();
  body.append('params', JSON.stringify(params));
  if (mask) {
    body.append('label', new Blob([mask]), 'label.bin');
  }
  return body;
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

function make(tag, name, text) {
  const element = document.createElement(tag);
  if (name) {
    element.className = `itermask3d-${name}`;
  }
  if (text !== undefined) {
    element.textContent = text;
  }
  return element;
}

function button(text, action, name = 'button') {
  const element = make('button', name, text);
  element.type = 'button';
  element.addEventListener('click', action);
  return element;
}

function build() {
  ui.card = make('section', 'card');
  ui.card.id = 'itermask3d-card';
  ui.card.setAttribute('aria-label', 'IterMask3D');
  ui.card.addEventListener('keydown', event => event.stopPropagation()); // OHIF's hotkeys stay out of the card
  ui.toggle = button('', () => collapse(ui.toggle.getAttribute('aria-expanded') === 'true'), 'toggle');
  ui.toggle.append(make('strong', '', 'IterMask3D'), make('span', 'use', 'research use only'), make('span', 'arrow'));
  ui.toggle.setAttribute('aria-controls', 'itermask3d-body');
  ui.body = make('div', 'body');
  ui.body.id = 'itermask3d-body';
  ui.body.append(buildTexts(), buildActions());
  ui.card.append(ui.toggle, ui.body);
  document.body.append(ui.card);
  collapse(localStorage.getItem('itermask3d.collapsed') === 'true');
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
  ui.find = button('Find anomalies', () => act('Looking for anomalies', find));
  ui.find.classList.add('itermask3d-primary');
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
  ui.user = make('input', 'user');
  Object.assign(ui.user, { type: 'text', maxLength: 64, placeholder: 'Your name', autocomplete: 'name' });
  ui.user.setAttribute('aria-label', 'Your name, stored with the saved mask');
  ui.user.value = localStorage.getItem('itermask3d.user') || '';
  ui.user.addEventListener('change', () => localStorage.setItem('itermask3d.user', ui.user.value.trim()));
  ui.save = button('Save to PACS', () => act('Saving', save));
  const rows = [[ui.find, ui.show], [ui.brush, ui.eraser, ui.radius], [keep]];
  rows.push([ui.refine, ui.report], [ui.user, ui.save]);
  for (const row of rows) {
    const line = make('div', 'row');
    line.append(...row);
    actions.append(line);
  }
  return actions;
}

function collapse(collapsed) {
  ui.body.hidden = collapsed;
  ui.toggle.setAttribute('aria-expanded', String(!collapsed));
  localStorage.setItem('itermask3d.collapsed', String(collapsed));
}

/** Show the state; called after every change. */
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

/** Change a text only when it differs, so that a screen reader does not repeat it at every poll. */
function say(element, text) {
  if (element.textContent !== text) {
    element.textContent = text;
  }
  element.hidden = !text;
}

function statusSentence(mine) {
  if (mine) {
    const share = mine.total > 1 ? ` (${mine.done} of ${mine.total})` : '';
    return `${PHASES[mine.phase] || mine.phase}${share}`;
  }
  if (state.working) {
    return state.running ? `${state.working}: waiting for another run to end` : `${state.working} …`;
  }
  return state.note;
}

function setProgress(run) {
  if (run?.total > 1) {
    Object.assign(ui.bar, { max: run.total, value: run.done });
  } else {
    ui.bar.removeAttribute('value');
  }
}

function renderResult() {
  const found = state.result;
  if (!found) {
    ui.result.replaceChildren(make('p', 'empty', 'No result for this series yet.'));
    return;
  }
  const verdict = make('p', 'verdict', found.verdict);
  verdict.classList.add(`itermask3d-${found.outcome}`);
  const curve = make('img', 'curve');
  curve.src = `/itermask3d/curve.png?${new URLSearchParams({ image: state.series.uid, v: String(Date.now()) })}`;
  curve.alt = `Error curve of the sweep; ${found.threshold === null ? 'no threshold' : 'threshold as above'}`;
  const warnings = (found.warnings || []).map(warning => make('p', 'warning', warning));
  ui.result.replaceChildren(verdict, facts(found), regions(found.components || []), curve, ...warnings);
}

function facts(found) {
  const list = make('dl', 'facts');
  const rows = [['Score', `${number(found.score, 4)}${rank(found.percentile_among_normals)}`]];
  rows.push(['Flagged', `${number(found.volumes_ml?.anomaly, 2)} ml`]);
  rows.push(['Threshold', found.threshold === null ? 'none' : number(found.threshold, 3)]);
  if (found.chosen_model?.name) {
    rows.push(['Model', found.chosen_model.name]);
  }
  if (found.series && found.series.uid !== state.series.uid) {
    rows.push(['Series used', found.series.description || found.series.uid]);
  }
  for (const [name, value] of rows) {
    list.append(make('dt', '', name), make('dd', '', value));
  }
  return list;
}

function rank(percentile) {
  if (!Number.isFinite(percentile)) {
    return '';
  }
  const share = Math.round(percentile) >= 100 ? 'all' : `${number(percentile, 0)} % of`;
  return `, higher than ${share} normal scans`;
}

function regions(components) {
  const list = make('ul', 'regions');
  for (const part of components) {
    const volume = `${number(part.volume_ml, 2)} ml`;
    const go = button(volume, () => viewer.jumpTo(part.centroid_mm), 'region');
    go.title = 'Go to the centre of this region';
    go.setAttribute('aria-label', `Region ${part.index}, ${volume}: go to its centre`);
    const item = make('li');
    item.append(go);
    list.append(item);
  }
  return list;
}

function number(value, digits) {
  return Number.isFinite(value) ? value.toFixed(digits) : '–';
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
    take(series, await askJson('/itermask3d/result', { image: series.uid }));
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
follow();
setInterval(follow, FOLLOW_MS);
schedulePoll(0);
