/*
 * Which other series of the study suits the model better.
 */

import { say } from './parts.js';
import { askJson } from './server.js';
import * as viewer from './viewer.js';

/** Say which other series of the study suits the model better. */
export async function advise(ui, series, isShown) {
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
