/*
 * How far a run is, in words and as one bar.
 */

import { say } from './parts.js';

const PHASES = {
  reading: 'Reading the scan',
  'brain extraction': 'Finding the brain',
  sweep: 'Sweeping the mask',
  shrink: 'Shrinking the mask',
  writing: 'Writing the result',
};

/** The phase alone: a screen reader reads each change out. The bar holds the figures. */
export function phaseOf(run) {
  return PHASES[run.phase] || run.phase;
}

/** One bar for the whole run; what is not a run of the server has no measure. */
export function showProgress(ui, run) {
  if (run) {
    Object.assign(ui.bar, { max: 1, value: run.share ?? 0 });
  } else {
    ui.bar.removeAttribute('value');
  }
  say(ui.left, Number.isFinite(run?.seconds_left) ? `about ${timeLeft(run.seconds_left)} left` : '');
}

function timeLeft(seconds) {
  return seconds < 90 ? `${Math.ceil(seconds / 5) * 5} s` : `${Math.ceil(seconds / 60)} min`;
}
