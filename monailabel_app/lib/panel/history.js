/*
 * What a person can take back: masks with the answer that stood beside them, most of them alike and so kept as runs.
 */

const KEPT_STEPS = 50;

export class History {
  constructor() {
    this.past = [];
    this.present = null;
    this.future = [];
  }

  /** Take note of a mask; whether it differs from the one before. */
  record(mask, answer) {
    const entry = { mask: encoded(mask), answer };
    if (this.present && same(this.present.mask, entry.mask)) {
      this.present.answer = answer;
      return false;
    }
    if (this.present) {
      this.past.push(this.present);
      this.past.splice(0, this.past.length - KEPT_STEPS);
    }
    Object.assign(this, { present: entry, future: [] });
    return true;
  }

  undo() {
    return this.move(this.past, this.future);
  }

  redo() {
    return this.move(this.future, this.past);
  }

  /** Go to the last entry of one side; null where there is none. */
  move(from, to) {
    if (!from.length) {
      return null;
    }
    to.push(this.present);
    this.present = from.pop();
    return { mask: decoded(this.present.mask), answer: this.present.answer };
  }
}

/** A mask as runs: {length, runs}. */
export function encoded(mask) {
  const runs = [];
  let last = 0;
  for (let place = 0; place < mask.length; place += 1) {
    if (mask[place] !== last) {
      last = mask[place];
      runs.push(place, last);
    }
  }
  return { length: mask.length, runs: Uint32Array.from(runs) };
}

/** A mask as runs in few bytes: its length, how many runs, then gap and value of each; seven bits a byte, low ones first. */
export function runBytes({ length, runs }) {
  const bytes = [];
  const add = number => {
    let rest = number;
    for (; rest > 127; rest >>>= 7) {
      bytes.push((rest & 127) | 128); // more follows
    }
    bytes.push(rest);
  };
  add(length);
  add(runs.length / 2);
  for (let run = 0; run < runs.length; run += 2) {
    add(runs[run] - (runs[run - 2] ?? 0));
    add(runs[run + 1]);
  }
  return Uint8Array.from(bytes);
}

function decoded({ length, runs }) {
  const mask = new Uint8Array(length);
  for (let run = 0; run < runs.length; run += 2) {
    mask.fill(runs[run + 1], runs[run], runs[run + 2] ?? length);
  }
  return mask;
}

/** Whether two encoded masks are alike. */
export function same(one, other) {
  return (
    one.length === other.length &&
    one.runs.length === other.runs.length &&
    one.runs.every((value, place) => value === other.runs[place])
  );
}
