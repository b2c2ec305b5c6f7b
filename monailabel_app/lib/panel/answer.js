/*
 * What was found in a series, for a reader: the verdict in words, the regions, what to doubt; figures on demand.
 */

import { button, folded, make, number } from './parts.js';

export const SEVERITIES = ['mild', 'moderate', 'severe'];
const LISTED_ML = 0.1; // smaller regions are counted, not listed
const OPEN_WARNINGS = 2;
const SCORE = `How far the scan is from what the model expects, taken where it is furthest. It has no unit. It ranks
  this scan among the normal scans that the model was calibrated on; it is no probability of disease, and scans of
  another kind than theirs are not ranked at all.`;

/**
 * The parts of an answer, in the order of reading.
 *
 * found: params of a run. shown: the series on the screen. go: called with a region that somebody chose.
 */
export function answerParts(found, shown, go) {
  const verdict = make('p', `verdict ${found.outcome}`, found.headline || found.verdict);
  return [
    verdict,
    ...regionParts(found.components || [], go),
    ...warningParts(found.warnings || []),
    folded('What is this score?', make('p', '', rank(found)), make('p', '', SCORE)),
    folded('Technical values', facts(found, shown), curve(found, shown), ...deviations(found)),
  ];
}

/** The region to look at first. */
export function firstRegion(found) {
  return found?.components?.[0] || null;
}

export function centreOf(region) {
  return region.centre_mm || region.centroid_mm;
}

function regionParts(components, go) {
  const listed = components.filter(part => part.volume_ml >= LISTED_ML);
  const left = components.length - listed.length;
  const list = make('ul', 'regions');
  list.setAttribute('aria-label', 'Regions, the most severe first');
  list.append(...listed.map(part => row(part, go)));
  const parts = listed.length ? [list] : [];
  if (left) {
    parts.push(make('p', 'quiet', `${left} smaller than ${LISTED_ML} ml not listed`));
  }
  return parts;
}

function row(part, go) {
  const place = part.place || `region ${part.index}`;
  const volume = `${number(part.volume_ml, 1)} ml`;
  const words = [part.severity, place].filter(Boolean);
  const choose = button('', () => go(part), 'region');
  choose.title = 'Go there';
  choose.append(swatch(part.severity || 'unknown'), make('span', 'place', words.join(' · ')), ' ');
  choose.append(make('span', 'volume', volume)); // all that is seen is also the button's name
  const item = make('li');
  item.append(choose);
  return item;
}

/** A colour with its word for those who do not see it. */
export function swatch(name) {
  const colour = make('span', `swatch ${name}`);
  colour.title = name;
  colour.setAttribute('aria-hidden', 'true');
  return colour;
}

/** The colours of mask and drawing. */
export function legend() {
  const list = make('p', 'legend');
  list.setAttribute('role', 'group');
  list.setAttribute('aria-label', 'Colours');
  for (const name of [...SEVERITIES, 'drawn']) {
    const entry = make('span', 'key');
    entry.append(swatch(name), name);
    list.append(entry);
  }
  list.title = 'Mean error of a region in multiples of the threshold of the scan: up to 2, up to 4, above. No grade.';
  return list;
}

function warningParts(warnings) {
  const shown = warnings.slice(0, OPEN_WARNINGS).map(text => make('p', 'warning', text));
  const others = warnings.slice(OPEN_WARNINGS).map(text => make('p', 'warning', text));
  return others.length ? [...shown, folded(`${others.length} more to know`, ...others)] : shown;
}

function rank(found) {
  const percentile = found.percentile_among_normals;
  const score = `Score ${number(found.score, 3)}`;
  if (!Number.isFinite(percentile)) {
    return `${score}; this scan is not ranked among normal scans.`;
  }
  const share = Math.round(percentile) >= 100 ? 'all' : `${number(percentile, 0)} % of`;
  return `${score}, higher than ${share} normal scans.`;
}

function facts(found, shown) {
  const list = make('dl', 'facts');
  const rows = [['Score', number(found.score, 4)]];
  rows.push(['Flagged', `${number(found.volumes_ml?.anomaly, 2)} ml`]);
  rows.push(['Threshold', Number.isFinite(found.threshold) ? number(found.threshold, 3) : 'none']);
  if (found.chosen_model?.name) {
    rows.push(['Model', found.chosen_model.name]);
  }
  if (found.series && found.series.uid !== shown.uid) {
    rows.push(['Series used', found.series.description || found.series.uid]);
  }
  for (const [name, value] of rows) {
    list.append(make('dt', '', name), make('dd', '', value));
  }
  return list;
}

function curve(found, shown) {
  const image = make('img', 'curve');
  image.loading = 'lazy'; // drawn by the server, and folded most of the time
  image.src = `/itermask3d/curve.png?${new URLSearchParams({ image: shown.uid, v: String(Date.now()) })}`;
  image.alt = `Error curve of the sweep; ${Number.isFinite(found.threshold) ? 'threshold as above' : 'no threshold'}`;
  return image;
}

function deviations(found) {
  return (found.deviations || []).map(text => make('p', 'quiet', text));
}

/** What a refinement made of the mask before and of what was drawn. */
export function changeSentence(change) {
  if (!change) {
    return 'Refined from your edit.';
  }
  const kept = `${number(change.kept_ml, 1)} of ${number(change.drawn_ml, 1)} ml of your drawing kept`;
  const drawn = change.drawn_ml ? `, ${kept}` : '';
  return `Refined: +${number(change.added_ml, 1)} ml, −${number(change.removed_ml, 1)} ml${drawn}.`;
}
