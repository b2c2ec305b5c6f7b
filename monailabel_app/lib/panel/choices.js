/*
 * Options of a run and of a refinement, in plain words. Left alone they send nothing, and the server takes its own.
 */

import { folded, make } from './parts.js';

const LIMITS = [['', 'as found in this scan'], ['stricter', 'stricter, in the whole mask'], ['looser', 'looser, in the whole mask']];

/** The folded part, and what its fields say: {part, run(), refinement()}. */
export function choices() {
  const smallest = make('input', 'field');
  Object.assign(smallest, { type: 'text', inputMode: 'decimal', placeholder: 'as calibrated', maxLength: 6 });
  const again = make('input');
  again.type = 'checkbox';
  const limit = make('select', 'field');
  limit.append(...LIMITS.map(([value, words]) => new Option(words, value)));
  const part = folded(
    'Options',
    labelled('Drop regions below (ml)', smallest),
    labelled('Compute again although there is a result', again),
    labelled('Limit when refining', limit),
  );
  return {
    part,
    run: () => ({
      ...(smallest.value.trim() && { min_volume_ml: smallest.value.trim().replace(',', '.') }),
      ...(again.checked && { fresh: 'true' }),
    }),
    refinement: () => (limit.value ? { strictness: limit.value } : {}),
  };
}

function labelled(words, field) {
  const label = make('label', 'option', words);
  label.append(field);
  return label;
}
