/*
 * What the panel is made of, from top to bottom: what is shown and found, then what can be done.
 */

import { legend } from './answer.js';
import { choices } from './choices.js';
import { button, make } from './parts.js';

const SHORTCUT = 'Alt+P';
const OVERLAYS = [
  ['scan', 'scan'],
  ['expected', 'expected scan'],
  ['map', 'anomaly map'],
  ['deviation', 'deviation', 'From the normal tissue: red where the scan is brighter, blue where it is darker'],
  ['error', 'error', 'Of the reconstruction: how far the scan is from the expected one'],
];
const USER = 'itermask3d.user'; // under this name the browser remembers the person

/** The elements by name, the whole panel as `card`; does: what the buttons do. */
export function build(does) {
  const ui = { card: make('section', 'card') };
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
  ui.card.append(head, buildTexts(ui, does), buildActions(ui, does));
  return ui;
}

/** Ask in the panel; true for the first answer, false for the second, which changes nothing. */
export function question(ui, text, yes, no) {
  return new Promise(resolve => {
    const answer = value => () => {
      ui.question.hidden = true;
      ui.question.replaceChildren();
      resolve(value);
    };
    const row = make('div', 'row');
    row.append(button(no, answer(false)), button(yes, answer(true)));
    ui.question.replaceChildren(make('p', '', text), row);
    ui.question.hidden = false;
  });
}

function buildTexts(ui, does) {
  const scroll = make('div', 'scroll');
  scroll.tabIndex = 0; // so that the keyboard can scroll it
  scroll.setAttribute('role', 'group');
  scroll.setAttribute('aria-label', 'Result');
  for (const name of ['series', 'hint', 'status', 'error']) {
    ui[name] = make('p', name);
  }
  ui.better = button('', does.better);
  ui.better.hidden = true;
  ui.status.setAttribute('role', 'status');
  ui.error.setAttribute('role', 'alert');
  ui.bar = make('progress', 'bar');
  ui.bar.setAttribute('aria-label', 'Progress of the run');
  ui.cancel = button('Cancel', does.cancel);
  ui.left = make('p', 'quiet');
  ui.progress = make('div', 'row progress');
  ui.progress.append(ui.bar, ui.cancel);
  ui.result = make('div', 'result');
  ui.choices = choices();
  scroll.append(ui.series, ui.hint, ui.better, ui.status, ui.progress, ui.left, ui.error, ui.result, ui.choices.part);
  return scroll;
}

/** What lies over the scan: one of these. */
function buildOverlays(ui, does) {
  ui.overlays = make('fieldset', 'overlays');
  ui.overlays.setAttribute('aria-label', 'Look at');
  for (const [kind, words, told = ''] of OVERLAYS) {
    const choice = make('input');
    Object.assign(choice, { type: 'radio', name: 'itermask3d-overlay', value: kind, checked: kind === 'scan' });
    choice.addEventListener('change', () => does.overlay(kind));
    const label = make('label', '', words);
    label.title = told;
    label.prepend(choice);
    ui.overlays.append(label);
  }
  return ui.overlays;
}

function buildActions(ui, does) {
  const actions = make('div', 'actions');
  ui.find = button('Find anomalies', does.find, 'button primary');
  ui.show = button('Show mask', does.show);
  ui.refine = button('Refine from my edit', does.refine);
  ui.save = button('Save to PACS', does.save);
  ui.report = make('a', 'button', 'Open report');
  ui.report.target = '_blank';
  ui.report.rel = 'noopener';
  const rows = [
    [ui.find, ui.show],
    buildTools(ui, does),
    buildSteps(ui, does),
    [buildKeep(ui)],
    [ui.refine],
    [buildUser(ui), ui.save],
    [ui.report],
  ];
  actions.append(buildQuestion(ui), buildOverlays(ui, does), legend());
  for (const parts of rows) {
    const row = make('div', 'row');
    row.append(...parts);
    actions.append(row);
  }
  return actions;
}

function buildQuestion(ui) {
  ui.question = make('div', 'question');
  ui.question.hidden = true;
  ui.question.setAttribute('role', 'alert');
  return ui.question;
}

function buildTools(ui, does) {
  ui.brush = button('Brush', does.brush);
  ui.eraser = button('Eraser', does.eraser);
  ui.radius = make('input', 'radius');
  Object.assign(ui.radius, { type: 'range', min: 2, max: 25, step: 1, value: 8, title: 'Size of the brush' });
  ui.radius.setAttribute('aria-label', 'Radius of the brush in millimetres');
  ui.radius.addEventListener('input', () => does.resize(ui.radius.valueAsNumber));
  return [ui.brush, ui.eraser, ui.radius];
}

function buildSteps(ui, does) {
  ui.undo = button('Undo', does.undo);
  ui.redo = button('Redo', does.redo);
  for (const [element, keys] of [[ui.undo, 'Control+Z'], [ui.redo, 'Control+Shift+Z']]) {
    element.setAttribute('aria-keyshortcuts', keys);
    element.title = keys.replace('Control', 'Ctrl');
  }
  return [ui.undo, ui.redo];
}

function buildKeep(ui) {
  ui.keep = make('input');
  ui.keep.type = 'checkbox';
  const keep = make('label', 'keep', 'Keep all that I drew');
  keep.prepend(ui.keep);
  return keep;
}

function buildUser(ui) {
  ui.user = make('input', 'user');
  Object.assign(ui.user, { type: 'text', maxLength: 64, placeholder: 'Your name', autocomplete: 'name' });
  ui.user.setAttribute('aria-label', 'Your name, stored with the saved mask');
  ui.user.value = localStorage.getItem(USER) || '';
  ui.user.addEventListener('change', () => localStorage.setItem(USER, ui.user.value.trim()));
  return ui.user;
}
