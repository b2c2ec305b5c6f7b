/*
 * The place of the panel in OHIF: the first tab of its right side, open; MONAI Label's own panel is the tab beside it.
 *
 * This is part of OHIF's configuration and read before OHIF starts. OHIF gives its extensions no React, so the tab
 * returns what React.createElement of its version 18 would.
 */

(function () {
  const PANEL = 'itermask3d.panelModule.answer';
  const ELEMENT = Symbol.for('react.element');
  const dock = { place: null, open() {} };

  function hold(place) {
    dock.place = place;
    window.dispatchEvent(new Event('itermask3d-dock'));
  }

  function Panel() {
    const props = { className: 'itermask3d-dock' };
    return { $$typeof: ELEMENT, type: 'div', key: null, ref: hold, props, _owner: null, _store: {} };
  }

  function enterMode({ servicesManager }) {
    const { panelService } = servicesManager.services;
    const known = side => panelService.getPanels(side).map(panel => panel.id);
    const panels = { left: known('left'), right: [PANEL, ...known('right')] };
    panelService.setPanels(panels, { rightPanelClosed: false });
    dock.open = () => panelService.activatePanel(PANEL, true);
  }

  window.itermask3dDock = dock;
  window.config.extensions.push({
    id: 'itermask3d',
    getPanelModule: () => [
      { name: 'answer', iconName: 'tab-segmentation', iconLabel: 'IterMask3D', label: 'IterMask3D', component: Panel },
    ],
    onModeEnter: enterMode,
  });
})();
