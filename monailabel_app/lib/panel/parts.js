/*
 * Small parts of the page. Text only ever becomes textContent.
 */

export function make(tag, name, text) {
  const element = document.createElement(tag);
  if (name) {
    element.className = name.split(' ').map(one => `itermask3d-${one}`).join(' ');
  }
  if (text !== undefined) {
    element.textContent = text;
  }
  return element;
}

export function button(text, action, name = 'button') {
  const element = make('button', name, text);
  element.type = 'button';
  element.addEventListener('click', action);
  return element;
}

/** Change a text only when it differs, so that a screen reader does not repeat it at every poll. */
export function say(element, text) {
  if (element.textContent !== text) {
    element.textContent = text;
  }
  element.hidden = !text;
}

export function number(value, digits) {
  return Number.isFinite(value) ? value.toFixed(digits) : '–';
}

/** A part that is folded until somebody asks for it. */
export function folded(title, ...content) {
  const details = make('details', 'folded');
  details.append(make('summary', '', title), ...content);
  return details;
}
