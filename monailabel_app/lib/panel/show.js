/*
 * The panel as things stand: sentences, progress, and what can be done now.
 */

import { say } from './parts.js';
import { phaseOf, showProgress } from './progress.js';
import * as viewer from './viewer.js';
import * as work from './work.js';

/** Put what is known into the panel. */
export function show(ui, state) {
  ui.card.hidden = !state.series;
  if (!state.series) {
    return;
  }
  const mine = state.running?.image === state.series.uid ? state.running : null;
  say(ui.series, `Series: ${state.series.description}`);
  say(ui.status, statusSentence(state, mine));
  ui.progress.hidden = !state.working && !mine && !state.waits;
  showProgress(ui, mine);
  ui.cancel.hidden = !mine && !state.waits;
  ui.cancel.disabled = Boolean(mine?.cancelled);
  ui.question.querySelectorAll('button').forEach(choice => (choice.disabled = Boolean(state.working)));
  for (const element of [ui.find, ui.show, ui.brush, ui.eraser, ui.undo, ui.redo, ui.refine, ui.save]) {
    element.disabled = Boolean(state.working || mine);
  }
  const { undo, redo } = work.steps(state.series);
  ui.undo.disabled ||= !undo;
  ui.redo.disabled ||= !redo;
  const tool = viewer.toolInUse(state.series);
  ui.brush.setAttribute('aria-pressed', String(tool === viewer.BRUSH));
  ui.eraser.setAttribute('aria-pressed', String(tool === viewer.ERASER));
  ui.show.hidden = ui.report.hidden = ui.overlays.hidden = !state.result;
  ui.overlays.disabled = Boolean(state.working || mine);
  ui.report.href = `/itermask3d/report?${new URLSearchParams({ image: state.series.uid })}`;
}

function statusSentence(state, mine) {
  if (mine) {
    return phaseOf(mine);
  }
  if (state.waits) {
    return 'Waiting for another run to end';
  }
  if (state.working) {
    return `${state.working} …`;
  }
  return state.note;
}
