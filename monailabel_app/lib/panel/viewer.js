/*
 * What the panel asks of OHIF: which series is shown, its segmentation, the brush, where to look.
 *
 * OHIF is used as shipped, through the globals that its cornerstone extension sets: window.services,
 * window.commandsManager, window.cornerstone and window.cornerstoneTools.
 */

const SHARED_SEGMENTATION = '1'; // the id that OHIF's MONAI Label panel uses, so that both show one segmentation
const DRAWING_TYPES = ['deepgrow', 'deepedit', 'vista3d', 'segmentation']; // models whose labels that panel lists
const BANDS = { 'anomaly 1 mild': 1, 'anomaly 2 moderate': 2, 'anomaly 3 severe': 3 };
const COLOURS = { 1: [255, 210, 77, 255], 2: [255, 138, 51, 255], 3: [232, 45, 45, 255] };
const DRAWN = { label: 'anomaly', band: 4, colour: [90, 204, 230, 255] }; // what a person draws, before it is refined
export const [BRUSH, ERASER, NO_BRUSH] = ['SphereBrush', 'SphereEraser', 'WindowLevel'];
const TOOL_GROUPS = ['default', 'mpr'];
const QUIET_MS = 400;
const LOAD_TRIES = 600;
const LOAD_WAIT_MS = 200;
const VOLUME_TRIES = 50;
const VOLUME_WAIT_MS = 100;

/** The MR series of the active viewport; null in the study list or where there is none. */
export function activeSeries() {
  const { viewportGridService, displaySetService } = window.services || {};
  if (!viewportGridService || !document.querySelector('.cornerstone-viewport-element')) {
    return null;
  }
  const { activeViewportId, viewports } = viewportGridService.getState();
  const ids = viewports?.get(activeViewportId)?.displaySetInstanceUIDs || [];
  const displaySet = ids.map(id => displaySetService.getDisplaySetByUID(id)).find(one => one?.Modality === 'MR');
  return (
    displaySet && {
      uid: displaySet.SeriesInstanceUID,
      study: displaySet.StudyInstanceUID,
      description: displaySet.SeriesDescription || 'without description',
      displaySet,
      viewportId: activeViewportId,
    }
  );
}

function displaySetOf(uid) {
  return window.services.displaySetService.activeDisplaySets?.find(one => one.SeriesInstanceUID === uid);
}

/** Whether a series of the study can be shown. */
export function isThere(uid) {
  return Boolean(displaySetOf(uid));
}

/** Show a series where the active one is, as a double click on its thumbnail does. */
export function showSeries(uid) {
  const { hangingProtocolService, viewportGridService } = window.services;
  const { activeViewportId } = viewportGridService.getState();
  const { displaySetInstanceUID } = displaySetOf(uid);
  const updated = hangingProtocolService.getViewportsRequireUpdate(activeViewportId, displaySetInstanceUID);
  viewportGridService.setDisplaySetsForViewports(updated);
  return '';
}

export function hasSegmentation(series) {
  return Boolean(segmentationOf(series));
}

/** Wait until the scan is there; false where it is not after a while, or another series is shown. */
export async function isLoaded(series) {
  for (let tries = 0; tries < LOAD_TRIES && activeSeries()?.uid === series.uid; tries += 1) {
    const viewport = window.services.cornerstoneViewportService.getCornerstoneViewport(series.viewportId);
    const volumes = (viewport?.getAllVolumeIds?.() || []).map(id => window.cornerstone.cache.getVolume(id));
    if (viewport && (viewport.type === 'stack' || volumes.some(volume => volume?.loadStatus?.loaded))) {
      return true;
    }
    await new Promise(resolve => setTimeout(resolve, LOAD_WAIT_MS));
  }
  return false;
}

/**
 * Put a mask into the segmentation of a series, which is made where there is none.
 *
 * mask: Uint8Array of bands, as maskNow gives it, first axis fastest. labels: names of all segments, in OHIF's order.
 */
export async function showMask(series, mask, labels) {
  const segmentation = segmentationOf(series) || (await createSegmentation(series, labels));
  const voxels = await voxelsOf(segmentation, series);
  const { length } = voxels.read();
  if (length !== mask.length) {
    throw new Error(`The mask has ${mask.length} voxels and the viewer ${length}; reload the page and try again.`);
  }
  const toViewer = shownNumbers(segmentation);
  voxels.write(mask.map(band => toViewer[band] || 0));
  paintBands(series);
  const { triggerEvent, eventTarget } = window.cornerstone;
  const event = window.cornerstoneTools.Enums.Events.SEGMENTATION_DATA_MODIFIED;
  isOurs = true;
  triggerEvent(eventTarget, event, { segmentationId: segmentation.segmentationId });
  isOurs = false;
}

/** What is drawn on a series as the server's bands; segments of other names count as mild. */
export async function drawnMask(series) {
  const mask = await maskNow(series);
  if (!mask) {
    throw new Error('Nothing is drawn on this series yet; press "Find anomalies" or "Brush" first.');
  }
  return mask.map(band => (band === DRAWN.band ? 1 : band));
}

/** All that is shown as bands, strokes of the brush told apart from them; null where there is no segmentation. */
export async function maskNow(series) {
  const segmentation = segmentationOf(series);
  if (!segmentation) {
    return null;
  }
  const voxels = (await voxelsOf(segmentation, series)).read();
  const toServer = {};
  for (const [band, index] of Object.entries(shownNumbers(segmentation))) {
    toServer[index] = Number(band);
  }
  return Uint8Array.from(voxels, value => (value ? toServer[value] || 1 : 0));
}

let edits = 0;
let noted = 0;
let isOurs = false; // whether the panel itself changes a segmentation

/** How often a segmentation has changed, but by the panel itself. */
export function editCount() {
  return edits;
}

/** Nothing is left to do for the changes up to that count. */
export function noteEdits(count) {
  noted = Math.max(noted, count);
}

/** Whether a segmentation has changed and nobody has noted it yet. */
export function isEditPending() {
  return edits !== noted;
}

/** Tell of every change of a segmentation once the mouse is released and all is quiet; false where OHIF is not there. */
export function onEdit(told) {
  const { eventTarget } = window.cornerstone || {};
  const modified = window.cornerstoneTools?.Enums.Events.SEGMENTATION_DATA_MODIFIED;
  if (!eventTarget || !modified) {
    return false;
  }
  let timer = null;
  let held = false;
  const wait = () => {
    clearTimeout(timer);
    timer = setTimeout(() => (held ? wait() : told()), QUIET_MS);
  };
  window.addEventListener('pointerdown', () => (held = true), { capture: true });
  for (const name of ['pointerup', 'pointercancel']) {
    window.addEventListener(name, () => (held = false), { capture: true });
  }
  eventTarget.addEventListener(modified, () => {
    edits += isOurs ? 0 : 1;
    wait();
  });
  return true;
}

/** Yellow, orange, red by severity, blue for what is drawn, in every viewport that shows the segmentation. */
export function paintBands(series) {
  const service = window.services.segmentationService;
  const segmentation = segmentationOf(series);
  if (!segmentation) {
    return;
  }
  const numbers = segmentNumbers(segmentation);
  const drawn = shownNumbers(segmentation)[DRAWN.band];
  for (const viewportId of service.getViewportIdsWithSegmentation(segmentation.segmentationId)) {
    for (const [band, index] of Object.entries(numbers)) {
      service.setSegmentColor(viewportId, segmentation.segmentationId, index, COLOURS[band]);
    }
    if (drawn) {
      service.setSegmentColor(viewportId, segmentation.segmentationId, drawn, DRAWN.colour);
    }
  }
}

/** Move every viewport to a point in RAS millimetres; DICOM's world is LPS. */
export function jumpTo([right, anterior, superior]) {
  const { viewportGridService, cornerstoneViewportService } = window.services;
  for (const id of viewportGridService.getState().viewports.keys()) {
    const viewport = cornerstoneViewportService.getCornerstoneViewport(id);
    const world = [-right, -anterior, superior];
    if (viewport?.type === 'stack') {
      jumpInStack(viewport, world);
    } else {
      viewport?.jumpToWorld?.(world);
    }
  }
}

/** A stack's own jumpToWorld does not tell OHIF which slice it shows. */
function jumpInStack(viewport, world) {
  const { getClosestImageId, jumpToSlice } = window.cornerstone.utilities;
  const { direction, spacing } = viewport.getImageData();
  const imageIds = viewport.getImageIds();
  const closest = getClosestImageId({ direction, spacing, imageIds }, world, viewport.getCamera().viewPlaneNormal);
  if (closest) {
    jumpToSlice(viewport.element, { imageIndex: imageIds.indexOf(closest) });
  }
}

/** Give the left mouse button to a tool: SphereBrush, SphereEraser or WindowLevel. */
export async function useTool(series, toolName, labels) {
  if (!segmentationOf(series)) {
    await createSegmentation(series, labels);
    paintBands(series);
  }
  window.commandsManager.runCommand('setToolActiveToolbar', { toolName, toolGroupIds: TOOL_GROUPS });
  window.services.toolbarService.refreshToolbarState({ viewportId: series.viewportId });
}

/** Radius of brush and eraser. */
export function setBrushRadius(radius_mm) {
  const { setBrushSizeForToolGroup } = window.cornerstoneTools.utilities.segmentation;
  TOOL_GROUPS.forEach(group => setBrushSizeForToolGroup(group, radius_mm));
}

/** The tool of the left mouse button. */
export function toolInUse(series) {
  const group = window.services.toolGroupService?.getToolGroupForViewport(series.viewportId);
  return group?.getActivePrimaryMouseButtonTool() || '';
}

/** The names of all segments as OHIF's MONAI Label panel orders them, from what the server's /info/ lists. */
export function segmentLabels(info) {
  const labels = new Set(info.labels || []);
  for (const model of Object.values(info.models || {})) {
    if (DRAWING_TYPES.includes(model.type)) {
      const names = Array.isArray(model.labels) ? model.labels : Object.keys(model.labels || {});
      names.forEach(name => labels.add(name));
    }
  }
  return [...labels].sort();
}

/** Let OHIF's own MONAI Label panel connect to this server; cookies do not tell ports apart. */
export function setServerCookie() {
  const found = document.cookie.match(/(?:^|; ?)MONAILABEL_SERVER_URL=([^;]*)/);
  let host = '';
  try {
    host = found ? new URL(decodeURIComponent(found[1])).hostname : '';
  } catch {
    host = '';
  }
  if (!host || host === window.location.hostname) {
    const value = encodeURIComponent(`${window.location.origin}/`);
    document.cookie = `MONAILABEL_SERVER_URL=${value}; path=/ohif; SameSite=Lax`;
  }
}

function segmentationOf(series) {
  const service = window.services.segmentationService;
  const own = service.getSegmentations().filter(one => belongsTo(one, series.displaySet));
  const active = service.getActiveSegmentation(series.viewportId)?.segmentationId;
  return own.find(one => one.segmentationId === active) || own[0] || null;
}

/** Whether a segmentation was drawn on the images of a display set. */
function belongsTo(segmentation, displaySet) {
  const data = segmentation.representationData?.Labelmap;
  const { cache } = window.cornerstone;
  const first = (data?.imageIds || cache.getVolume(data?.volumeId)?.imageIds || [])[0];
  const image = first && cache.getImage(first);
  return Boolean(image) && (displaySet.imageIds || []).includes(image.referencedImageId);
}

/** Make the segmentation that OHIF's MONAI Label panel would make, so that either may come first. */
async function createSegmentation(series, labels) {
  const service = window.services.segmentationService;
  const taken = service.getSegmentations().some(one => one.segmentationId === SHARED_SEGMENTATION);
  const segmentationId = taken ? `itermask3d-${series.uid}` : SHARED_SEGMENTATION;
  const segments = {};
  labels.forEach((label, place) => {
    const color = COLOURS[BANDS[label]] || DRAWN.colour;
    segments[place + 1] = { segmentIndex: place + 1, label, active: place === 0, locked: false, color };
  });
  const type = window.cornerstoneTools.Enums.SegmentationRepresentations.Labelmap;
  const segmentation = { segmentationId, representation: { type }, config: { label: 'Segmentations', segments } };
  await window.commandsManager.runCommand('loadSegmentationsForViewport', {
    segmentations: [segmentation],
    viewportId: series.viewportId,
  });
  const made = service.getSegmentation(segmentationId);
  if (!made) {
    throw new Error('The viewer could not make a segmentation; press Run in the MONAI Label panel instead.');
  }
  return made;
}

/** Access to the voxels of a segmentation, first axis fastest: {read(), write(values)}. */
async function voxelsOf(segmentation, series) {
  const { segmentationService, cornerstoneViewportService } = window.services;
  const isStack = cornerstoneViewportService.getCornerstoneViewport(series.viewportId)?.type === 'stack';
  for (let tries = 0; tries < VOLUME_TRIES; tries += 1) {
    const manager = segmentationService.getLabelmapVolume(segmentation.segmentationId)?.voxelManager;
    if (manager) {
      return {
        read: () => manager.getCompleteScalarDataArray(),
        write: values => manager.setCompleteScalarDataArray(values),
      };
    }
    if (isStack) {
      return sliceVoxels(segmentation);
    }
    await new Promise(resolve => setTimeout(resolve, VOLUME_WAIT_MS)); // OHIF makes the volume a moment later
  }
  throw new Error('This layout has nothing to draw on; choose MPR in the toolbar and try again.');
}

/** The same for a stack of slices without a volume, in the order in which a volume would hold them. */
function sliceVoxels(segmentation) {
  const { cache, utilities } = window.cornerstone;
  const images = segmentation.representationData.Labelmap.imageIds.map(id => cache.getImage(id));
  const bySource = new Map(images.map(image => [image.referencedImageId, image.getPixelData()]));
  const { sortedImageIds } = utilities.sortImageIdsAndGetSpacing([...bySource.keys()]);
  const slices = sortedImageIds.map(id => bySource.get(id));
  const size = slices[0].length;
  return {
    read: () => {
      const values = new Uint8Array(size * slices.length);
      slices.forEach((slice, place) => values.set(slice, place * size));
      return values;
    },
    write: values => slices.forEach((slice, place) => slice.set(values.subarray(place * size, (place + 1) * size))),
  };
}

/** Which segment stands for which band, and which for what a person draws. */
function shownNumbers(segmentation) {
  const numbers = segmentNumbers(segmentation);
  const drawn = Object.values(segmentation.segments).find(one => one?.label === DRAWN.label);
  return drawn ? { ...numbers, [DRAWN.band]: drawn.segmentIndex } : numbers;
}

/** Which segment stands for which band; OHIF numbers segments in the order of their names. */
function segmentNumbers(segmentation) {
  const service = window.services.segmentationService;
  const segments = Object.values(segmentation.segments || {}).filter(Boolean);
  const numbers = {};
  for (const [label, band] of Object.entries(BANDS)) {
    const found = segments.find(one => one.label === label);
    const next = Math.max(0, ...segments.map(one => one.segmentIndex), ...Object.values(numbers)) + 1;
    if (!found) {
      service.addSegment(segmentation.segmentationId, { segmentIndex: next, label });
    }
    numbers[band] = found ? found.segmentIndex : next;
  }
  return numbers;
}
