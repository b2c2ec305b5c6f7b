"""Both kinds of evidence together: the fused map, the side that is suspicious, and what is marked."""

from __future__ import annotations

from pathlib import Path

import itermask3d
import numpy as np
import pytest
import torch
from itermask3d.method.detection import Growth
from itermask3d.method.evidence import KindSettings, TissueEvidence, fused
from itermask3d.method.inferer import IterMaskInferer
from itermask3d.method.refinement import Thresholding
from itermask3d.method.settings import RefinementSettings
from itermask3d.method.shrink import Constraints
from itermask3d.method.tissue_deviation import ContrastKind, Side, TissueSettings, tissue_deviation
from itermask3d.method.tissue_network import CLASSES, tissue_shares
from itermask3d.preprocessing.normalise import robust_normalised
from itermask3d.simulation.generator.label_maps import template_mixture
from itermask3d.simulation.generator.synthesis import Ingredients, draw_recipe, render
from torch import nn

GRID = (32, 32, 32)
FLUID, WHITE, CORTEX = (CLASSES.index(name) for name in ("fluid", "white", "cortex"))
BRIGHT_LESION, DARK_LESION = (slice(8, 12),) * 3, (slice(8, 12), slice(20, 24), slice(20, 24))
WEIGHTS = Path(itermask3d.BUNDLE_ROOT, "models/model_tissue.pt")
KINDS = {"flair": KindSettings(0.5, 4.0, 9.0), "other": KindSettings(0.5, 1e6, 1e6)}
LOOP = RefinementSettings(
    noise=0.0, relative_error=True, nested=True, schedule="fast", threshold_floor=4.0, threshold_ceiling=9.0
)


class Expected(nn.Module):
    """A reconstruction network that knows the normal scan, and expects the error of its noise."""

    def __init__(self, normal: torch.Tensor) -> None:
        super().__init__()
        self.normal = normal

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        normal = self.normal.expand(len(inputs), 1, *GRID)
        return torch.cat((normal, torch.full_like(normal, float(np.log(0.01)))), dim=1)


class KnownTissues(nn.Module):
    """A tissue network that knows the tissues of :func:`flair`: fluid below, white matter, cortex on top."""

    def forward(self, image: torch.Tensor, brain_mask: torch.Tensor) -> torch.Tensor:
        logits = torch.full((len(image), len(CLASSES), *GRID), -8.0)
        for index, part in ((FLUID, slice(0, 6)), (WHITE, slice(6, 20)), (CORTEX, slice(20, 32))):
            logits[:, index, part] = 0
        return logits


def brain() -> torch.Tensor:
    mask = torch.zeros((1, 1, *GRID), dtype=torch.bool)
    mask[..., 2:-2, 2:-2, 2:-2] = True
    return mask


def flair(*, lesions: bool = True) -> torch.Tensor:
    image = torch.zeros((1, 1, *GRID))
    image[..., :6, :, :], image[..., 6:20, :, :], image[..., 20:, :, :] = -3.0, 0.0, 0.4
    image = image + 0.1 * torch.randn(image.shape, generator=torch.Generator().manual_seed(3))
    if lesions:
        image[(..., *BRIGHT_LESION)] += 1.5
        image[(..., *DARK_LESION)] -= 1.5
    return image * brain()


def tissues(side: str = "auto", **kinds: KindSettings) -> TissueEvidence:
    evidence = TissueEvidence("nowhere.pt", KINDS | kinds, side=side, tissues=TissueSettings())
    evidence._network = KnownTissues()  # type: ignore[assignment]
    return evidence


def run(evidence: TissueEvidence | None, constraints: Constraints | None = None) -> dict:
    inferer = IterMaskInferer(LOOP, evidence=evidence, min_volume_ml=0.05)
    return inferer(flair(), Expected(flair(lesions=False)), brain().float(), constraints=constraints)


@pytest.mark.parametrize(
    ("side", "bright", "dark"),
    [("auto", True, False), ("bright", True, False), ("dark", False, True), ("both", True, True), ("none", True, True)],
)
def test_the_side_says_which_lesion_is_marked(side, bright, dark):
    out = run(tissues(side))
    mask = out["mask"][0, 0] > 0
    assert mask[BRIGHT_LESION].float().mean() == float(bright)
    assert mask[DARK_LESION].float().mean() == float(dark)
    assert mask.sum() == 64 * (bright + dark)
    (told,) = out["evidence"]
    assert told.kind is ContrastKind.FLAIR
    assert told.to_json()["side"] == (side if side != "auto" else "bright")
    assert told.to_json()["tissue_intensities"]["fluid"] == pytest.approx(-2.9, abs=0.2)


def test_without_tissues_nothing_changes_and_nothing_is_told():
    out = run(None)
    assert set(out) == {"mask", "anomaly_map", "reconstruction", "findings"}
    assert (out["mask"][0, 0][DARK_LESION] > 0).all()


def test_the_map_is_high_only_where_both_kinds_are_and_each_is_kept_apart():
    out = run(tissues("bright"))
    z, error = out["evidence"][0].deviation.z[0], out["error"][0, 0]
    assert z[BRIGHT_LESION].min() > 5
    assert z[DARK_LESION].max() < -5
    assert not error[DARK_LESION].any(), "darker than expected is no error where bright is suspicious"
    assert torch.allclose(out["anomaly_map"][0, 0], fused(z, error, 0.5))
    assert out["findings"][0].threshold == 4.0


def test_the_share_of_the_tissues_leads_from_one_kind_of_evidence_to_the_other():
    suspicious, error = torch.tensor([3.0, 0.0, 2.0]), torch.tensor([4.0, 4.0, 0.0])
    assert torch.equal(fused(suspicious, error, 0.0), error)
    assert torch.equal(fused(suspicious, error, 1.0), suspicious**2)


def test_a_region_is_kept_by_its_peak_and_a_kind_without_settings_takes_those_of_other():
    assert not run(tissues(flair=KindSettings(0.5, 4.0, 1e6)))["mask"].any()
    evidence = TissueEvidence("nowhere.pt", {"other": KINDS["flair"]})
    evidence._network = KnownTissues()  # type: ignore[assignment]
    assert run(evidence)["mask"].any()


def test_a_kind_has_a_smallest_region_of_its_own_until_a_person_asks_for_another():
    lesion_ml = 64 * 0.008
    few, many = (tissues(flair=KindSettings(0.5, 4.0, 9.0, volume)) for volume in (0.5 * lesion_ml, 2 * lesion_ml))
    assert run(few)["mask"].any()
    assert not run(many)["mask"].any()
    assert run(many.with_one_volume())["mask"].any(), "that of the inferer, which is 0"
    assert many.kinds["flair"].min_volume_ml == 2 * lesion_ml


@pytest.mark.parametrize(
    ("growth", "reaches"),
    [
        (Growth(2.0, 0.3, 20.0), True),
        (Growth(2.0, 0.3, 1.0), False),
        (Growth(2.0, 1.0, 20.0), False),
        (Growth(7.5, 0.3, 20.0), False),
    ],
    ids=["into the rim", "not beyond the distance", "not from a small region", "not below the threshold"],
)
def test_a_large_region_grows_into_its_rim(growth, reaches):
    rim = (slice(10, 14), slice(10, 14), slice(15, 18))
    image, normal = flair(), flair(lesions=False)
    core = torch.zeros_like(image, dtype=torch.bool)
    core[(..., slice(10, 14), slice(10, 14), slice(10, 15))] = True
    image = torch.where(core, normal + 1.5, flair(lesions=False))
    image[(..., *rim)] = normal[(..., *rim)] + 0.25
    evidence = tissues("bright", flair=KindSettings(0.0, 8.0, 9.0, 0.05, growth))
    never = torch.zeros_like(brain())
    never[..., 10, 10, 15] = True
    inferer = IterMaskInferer(LOOP, evidence=evidence, min_volume_ml=0.05)
    given = (image, Expected(normal), brain().float())
    mask = inferer(*given)["mask"][0, 0] > 0
    assert mask[core[0, 0]].all()
    assert bool(mask[rim].all()) is reaches
    assert bool(mask[rim].any()) is reaches
    kept_out = inferer(*given, constraints=Constraints(never=never))["mask"][0, 0] > 0
    assert not kept_out[10, 10, 15]
    assert evidence.read(image, brain().float(), spacing_mm=2.0)[0].to_json()["growth"]["from_ml"] == growth.from_ml


def test_a_kind_has_its_own_estimator_of_the_tissues_and_is_told_without_it():
    whole, brain_mask = flair(), brain().float()
    plain, own = (
        tissues("bright", flair=KindSettings(0.5, 4.0, 9.0, estimator=name)).read(whole, brain_mask, spacing_mm=2.0)[0]
        for name in (None, "shortest_half")
    )
    wanted = tissue_deviation(
        whole[0],
        brain_mask[0],
        tissue_shares(KnownTissues(), whole, brain_mask)[0],
        TissueSettings(estimator="shortest_half"),
    )
    assert plain.kind is own.kind is ContrastKind.FLAIR
    assert torch.equal(own.deviation.z, wanted.z)
    assert not torch.equal(own.deviation.z, plain.deviation.z)
    with pytest.raises(ValueError, match="'mean' is not a valid Estimator"):
        KindSettings(0.5, 4.0, 9.0, estimator="mean")


def test_a_region_that_the_start_cuts_off_grows_as_the_whole_one_would():
    """A person's edit lets the model look at a zone alone; a lesion that goes on beyond it keeps its rim there."""
    normal, core = flair(lesions=False), torch.zeros((1, 1, *GRID), dtype=torch.bool)
    core[(..., slice(10, 14), slice(10, 14), slice(4, 15))] = True
    rim = (slice(10, 14), slice(10, 14), slice(15, 18))
    image = torch.where(core, normal + 1.5, normal)
    image[(..., *rim)] = normal[(..., *rim)] + 0.25
    evidence = tissues("bright", flair=KindSettings(0.0, 8.0, 9.0, 0.05, Growth(2.0, 1.0, 20.0)))
    inferer = IterMaskInferer(LOOP, evidence=evidence, min_volume_ml=0.05)
    start = torch.zeros_like(brain())
    start[..., 8:16, 8:16, 12:22] = True
    masks = [
        inferer(image, Expected(normal), brain().float(), constraints=constraints)["mask"][0, 0] > 0
        for constraints in (None, Constraints(start=start))
    ]
    assert masks[0][rim].all()
    assert torch.equal(masks[1], masks[0] & start[0, 0])


@pytest.mark.parametrize(
    ("factor", "marked"), [(1.0, True), (0.67, True), (1e9, False), (float("inf"), False), (0.0, True)]
)
def test_a_threshold_that_a_person_asks_for_is_that_of_the_fused_map(factor, marked):
    evidence = tissues(flair=KindSettings(0.5, 4.0, 9.0, growth=Growth(3.0, 1.0, 8.0)))
    inferer = IterMaskInferer(LOOP, evidence=evidence, min_volume_ml=0.05)
    given = (flair(), Expected(flair(lesions=False)), brain().float())
    first = inferer(*given)
    (estimate,), curve = [one.estimate for one in first["findings"]], [one.curve for one in first["findings"]]
    asked = Thresholding(torch.tensor(curve, dtype=torch.float64), (estimate,), (factor * 4.0,))
    out = inferer(*given, thresholding=asked)
    mask, used = out["mask"][0, 0] > 0, out["evidence"][0].used
    assert bool(mask[BRIGHT_LESION].all()) is marked
    assert bool(mask.any()) is marked
    assert used.threshold == pytest.approx(max(factor * 4.0, 1e-6))
    assert used.peak_threshold / used.threshold == pytest.approx(9 / 4) or factor == float("inf")
    if factor == 1.0:
        assert torch.equal(out["mask"], first["mask"])


def test_growth_has_to_reach_below_the_threshold():
    with pytest.raises(ValueError, match=r"growth to 4.0 needs a threshold below 4.0"):
        KindSettings(0.5, 4.0, 9.0, growth=Growth(4.0, 1.0, 8.0))
    with pytest.raises(ValueError, match="outside its range"):
        Growth(0.0, 1.0, 8.0)


def test_what_a_person_excludes_stays_out_and_what_is_included_stays_in():
    never, always = torch.zeros_like(brain()), torch.zeros_like(brain())
    never[(..., *BRIGHT_LESION)] = True
    always[(..., *DARK_LESION)] = True
    mask = run(tissues(), Constraints(never=never, always=always))["mask"][0, 0] > 0
    assert not mask[BRIGHT_LESION].any()
    assert mask[DARK_LESION].all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: KindSettings(1.5, 1.0, 1.0),
        lambda: KindSettings(0.5, 2.0, 1.0),
        lambda: KindSettings(0.5, 1.0, 2.0, -1.0),
        lambda: TissueEvidence("x.pt", {"flair": KINDS["flair"]}),
        lambda: TissueEvidence("x.pt", KINDS | {"ct": KINDS["flair"]}),
        lambda: TissueEvidence("x.pt", KINDS, side="left"),
        lambda: IterMaskInferer().with_evidence(tissues()),
    ],
)
def test_settings_that_cannot_be_are_refused(make):
    with pytest.raises(ValueError, match=r"expected|needs"):
        make()


@pytest.mark.parametrize(
    ("contrast", "kind", "side"),
    [
        ("flair", ContrastKind.FLAIR, Side.BRIGHT),
        ("t2", ContrastKind.T2, Side.BRIGHT),
        ("t1", ContrastKind.T1, Side.BOTH),
    ],
)
def test_the_shipped_network_tells_the_contrast_of_generated_scans_of_the_template(contrast, kind, side):
    mixture, mask = template_mixture(2.0)
    grid = [(before, 96 - size - before) for size in mixture.shape[1:] for before in [(96 - size) // 2]]
    pads = [one for pair in reversed(grid) for one in pair]
    mixture, mask = (nn.functional.pad(part.as_tensor(), pads) for part in (mixture, mask))
    recipe = draw_recipe(Ingredients(contrasts={contrast: 1.0}), np.random.RandomState(4))
    made = render(mixture, mask, recipe, spacing_mm=2.0)
    inside = made.brain_mask > 0.5
    image = robust_normalised(made.image, inside) if False else made.image
    image = torch.where(inside, (image - image[inside].median()) / image[inside].std(), 0.0)
    evidence = TissueEvidence(
        Path(itermask3d.BUNDLE_ROOT, "models/model_tissue.pt"), {"other": KindSettings(0.5, 2, 2)}
    )
    (found,) = evidence.read(image[None].float(), made.brain_mask[None], spacing_mm=2.0)
    assert (found.kind, found.side) == (kind, side)
