/*
 * Keys that reach the panel from anywhere on the page: Alt+P leads to it, Ctrl+Z and Ctrl+Shift+Z take back and repeat.
 */

/** take: 'undo' or 'redo' was asked for; it says whether there is anything to do it on. */
export function listen(ui, isThere, take) {
  window.addEventListener('keydown', event => reach(event, ui), { capture: true });
  window.addEventListener('keydown', event => undo(event, isThere, take), { capture: true });
}

/** To the panel, also where OHIF has folded it. */
function reach(event, ui) {
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

function undo(event, isThere, take) {
  const key = event.key.toLowerCase();
  const direction = key === 'y' || (key === 'z' && event.shiftKey) ? 'redo' : key === 'z' ? 'undo' : '';
  const writing = /^(input|textarea)$/i.test(event.target.tagName) && event.target.type !== 'range';
  if (!direction || !(event.ctrlKey || event.metaKey) || event.altKey || !isThere() || writing) {
    return;
  }
  event.preventDefault();
  event.stopPropagation();
  take(direction);
}
