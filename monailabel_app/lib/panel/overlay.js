/*
 * What lies over the scan in the viewports: nothing, the scan that the model expected, the anomaly map or the
 * reconstruction error in the colours of the severities, or the deviation from the tissues, red where the scan is
 * brighter and blue where it is darker. A volume of its own is added to every viewport that shows the scan's volume; a
 * stack of slices cannot hold one.
 */

import { ask } from './server.js';

const ACTOR = 'itermask3d-overlay';
const ARRAYS = { uint8: Uint8Array, int16: Int16Array, float32: Float32Array };
const STEPS = 32; // of the map's byte up to the threshold of the scan
const COLOURS = [[0, 1, 0.82, 0.3], [STEPS, 1, 0.82, 0.3], [2 * STEPS, 1, 0.54, 0.2], [4 * STEPS, 0.91, 0.18, 0.18]];
const OPACITIES = [[0, 0], [STEPS / 2, 0], [STEPS, 0.5], [4 * STEPS, 0.85], [255, 0.85]];
const SD = 100; // steps of the deviation from the tissues
const SIGNED = [[-4 * SD, 0.1, 0.3, 1], [-1.5 * SD, 0.6, 0.8, 1], [1.5 * SD, 1, 0.75, 0.6], [4 * SD, 1, 0.1, 0.1]];
const SIGNED_OPACITIES = [[-4 * SD, 0.85], [-1.5 * SD, 0], [1.5 * SD, 0], [4 * SD, 0.85]];
const SLICE_MM = 0.1; // thickness of a slice, over which an opacity holds
const HEATS = new Set(['map', 'error']);
let count = 0;
const following = new WeakSet(); // viewports whose window is listened to

/**
 * Lay a volume over the scan of a series, in place of an earlier one.
 *
 * kind: 'scan' for nothing, 'expected', 'map', 'deviation' or 'error'. Gives a remark for the reader, empty where
 * there is none.
 */
export async function showOverlay(series, kind) {
  const viewports = viewportsOf(series);
  if (kind !== 'scan' && !viewports.length) {
    throw new Error('This layout shows single slices; choose MPR in the toolbar to lay something over the scan.');
  }
  const made = kind === 'scan' ? null : await fetchVolume(series, kind, scanIn(viewports[0]));
  for (const viewport of viewports) {
    remove(viewport);
    if (made) {
      await add(viewport, made, kind);
    }
    viewport.render();
  }
  return made?.isRelative ? 'No threshold was found: the colours of the map are relative to this scan.' : '';
}

/** Viewports that show the series as a volume. */
function viewportsOf(series) {
  const { viewportGridService, cornerstoneViewportService } = window.services;
  return [...viewportGridService.getState().viewports.keys()]
    .map(id => cornerstoneViewportService.getCornerstoneViewport(id))
    .filter(viewport => viewport?.type === 'orthographic')
    .filter(viewport => holds(scanIn(viewport), series));
}

function scanIn(viewport) {
  const [first] = viewport.getActors();
  return first && window.cornerstone.cache.getVolume(first.referencedId);
}

function holds(volume, series) {
  const ids = series.displaySet.imageIds || [];
  return Boolean(volume?.imageIds?.some(id => ids.includes(id)));
}

async function fetchVolume(series, name, scan) {
  const response = await ask('/itermask3d/overlay', { image: series.uid, name });
  const Voxels = ARRAYS[response.headers.get('X-Voxels')];
  const scalarData = new Voxels(await response.arrayBuffer());
  const { dimensions, spacing, origin, direction, metadata } = scan;
  if (scalarData.length !== dimensions[0] * dimensions[1] * dimensions[2]) {
    throw new Error(`The overlay has ${scalarData.length} voxels and the viewer's scan another number; run again.`);
  }
  count += 1; // an id of its own, for the next run has other voxels
  const volumeId = `itermask3d-${name}:${count}`;
  window.cornerstone.volumeLoader.createLocalVolume(volumeId, {
    scalarData, dimensions, spacing, origin, direction, metadata,
  });
  return { volumeId, isRelative: name === 'map' && response.headers.get('X-Relative') === 'yes' };
}

function remove(viewport) {
  const entry = viewport.getActor(ACTOR);
  if (entry) {
    viewport.removeVolumeActors([ACTOR]);
    const shared = window.services.cornerstoneViewportService
      .getRenderingEngine()
      .getViewports()
      .some(other => other.getActor(ACTOR)?.referencedId === entry.referencedId);
    if (!shared) {
      window.cornerstone.cache.removeVolumeLoadObject(entry.referencedId);
    }
  }
}

async function add(viewport, { volumeId }, kind) {
  const range = viewport.getProperties().voiRange;
  const dress = dressOf(kind, range);
  const callback = ({ volumeActor }) => {
    const property = volumeActor.getProperty();
    dress(property);
    property.setScalarOpacityUnitDistance(0, SLICE_MM);
  };
  const masks = viewport.getActors().slice(1); // segmentations, which stay on top
  viewport.removeActors(masks.map(mask => mask.uid));
  await viewport.addVolumes([{ volumeId, actorUID: ACTOR, visibility: true, callback }], true, true);
  await frame(); // what is drawn first stays below
  masks.forEach(mask => viewport.addActor(mask));
  followWindow(viewport);
}

/** The window that a person sets goes to the scan; the expected one follows it. */
function followWindow(viewport) {
  if (following.has(viewport)) {
    return;
  }
  following.add(viewport);
  viewport.element.addEventListener(window.cornerstone.Enums.Events.VOI_MODIFIED, () => {
    const entry = viewport.getActor(ACTOR);
    if (entry?.referencedId.startsWith('itermask3d-expected')) {
      dressScan(entry.actor.getProperty(), viewport.getProperties().voiRange);
    }
  });
}

function dressOf(kind, range) {
  if (kind === 'expected') {
    return property => dressScan(property, range);
  }
  return property => (HEATS.has(kind) ? paint(property, COLOURS, OPACITIES) : paint(property, SIGNED, SIGNED_OPACITIES));
}

/** Grey, in the window of the scan, and opaque. */
function dressScan(property, { lower, upper }) {
  paint(property, [[lower, 0, 0, 0], [upper, 1, 1, 1]], [[lower, 1], [upper, 1]]);
}

function paint(property, colours, opacities) {
  const [colour, opacity] = [property.getRGBTransferFunction(0), property.getScalarOpacity(0)];
  colour.removeAllPoints();
  opacity.removeAllPoints();
  colours.forEach(point => colour.addRGBPoint(...point));
  opacities.forEach(point => opacity.addPoint(...point));
}

function frame() {
  return new Promise(resolve => requestAnimationFrame(() => requestAnimationFrame(resolve)));
}
