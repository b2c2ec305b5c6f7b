"""The tissue network: its shapes, its prior, and that nothing depends on the side of the head."""

from __future__ import annotations

from pathlib import Path

import itermask3d
import pytest
import torch
from itermask3d.method.tissue_network import CLASSES, PRIOR_SIZE, TissueUNet, in_box, tissue_shares

GRID = (32, 48, 32)


def small() -> TissueUNet:
    return TissueUNet((4, 4, 8, 8)).eval()


def brain() -> torch.Tensor:
    mask = torch.zeros((1, 1, *GRID), dtype=torch.bool)
    mask[:, :, 4:24, 6:30, 10:30] = True
    return mask


def scan() -> torch.Tensor:
    return torch.randn((1, 1, *GRID), generator=torch.Generator().manual_seed(1)) * brain()


def test_an_untrained_network_says_the_prior_by_the_place_in_the_brains_box():
    network = small()
    ramps = [torch.linspace(0, 1, size) for size in PRIOR_SIZE]
    network.prior.zero_()
    network.prior[:3] = torch.stack(torch.meshgrid(*ramps, indexing="ij"))
    said = network(scan(), brain())[0].detach().exp()
    inside = said[:3, 4:24, 6:30, 10:30]
    for axis in range(3):
        ends = inside[axis].movedim(axis, 0)[[0, -1]]
        assert torch.allclose(ends[0], torch.tensor(0.002), atol=0.03)
        assert torch.allclose(ends[1], torch.tensor(1.002), atol=0.03)


def test_the_cells_of_a_box_hold_the_means_of_its_voxels():
    volumes = torch.arange(float(torch.tensor(GRID).prod())).reshape(1, *GRID)
    cells = in_box(volumes, brain()[0], size=(2, 2, 2))
    assert torch.isclose(cells[0, 0, 0, 0], volumes[0, 4:14, 6:18, 10:20].mean())
    assert torch.isclose(cells[0, 1, 1, 0], volumes[0, 14:24, 18:30, 10:20].mean())


def test_shares_are_of_the_brain_sum_to_one_and_mirror_with_the_scan():
    network = small()
    torch.nn.init.normal_(network.head.weight, generator=torch.Generator().manual_seed(2))
    shares = tissue_shares(network, scan(), brain())
    assert shares.shape == (1, len(CLASSES), *GRID)
    assert torch.allclose(shares.sum(dim=1, keepdim=True), brain().float(), atol=1e-5)
    mirrored = tissue_shares(network, scan().flip(2), brain().flip(2))
    assert torch.allclose(mirrored.flip(2), shares, atol=1e-4)


def test_blocks_come_back_where_they_were_taken_from():
    network = small()
    torch.nn.init.zeros_(network.head.weight)
    network.head.bias.data = torch.arange(8.0).repeat(len(CLASSES))
    said = network(scan(), brain()) - network.log_prior(brain())
    corner = said[0, 0, :2, :2, :2].flatten()
    assert torch.allclose(corner, torch.arange(8.0), atol=1e-4)
    assert torch.allclose(said[0, 0, 2:4, 4:6, 6:8].flatten(), torch.arange(8.0), atol=1e-4)


@pytest.mark.parametrize("channels", [(4, 4, 8), (8, 4, 8, 8)])
def test_widths_that_do_not_fit_are_refused(channels):
    with pytest.raises(ValueError, match="four widths that do not fall"):
        TissueUNet(channels)


def test_a_scan_without_a_brain_or_with_another_grid_is_refused():
    with pytest.raises(ValueError, match="at least one voxel"):
        small()(scan(), torch.zeros_like(brain()))
    with pytest.raises(ValueError, match="must both be"):
        small()(scan(), brain()[:, :, :16])


def test_the_shipped_weights_fit_and_their_prior_is_a_share_of_each_tissue_everywhere():
    network = TissueUNet()
    network.load_state_dict(torch.load(Path(itermask3d.BUNDLE_ROOT, "models/model_tissue.pt"), weights_only=True))
    prior = network.prior
    assert torch.allclose(prior.sum(dim=0), torch.ones(PRIOR_SIZE), atol=5e-3)
    assert torch.equal(prior, prior.flip(1))
    middle = prior[:, 8:12, 10:14, 8:12].mean(dim=(1, 2, 3))
    assert middle[CLASSES.index("other")] < 0.05
    cerebellum = prior[CLASSES.index("cerebellar_grey")]
    assert cerebellum[:, :10].sum() > 0.75 * cerebellum.sum(), "it lies at the back"
    assert cerebellum[:, :, :6].sum() > 0.75 * cerebellum.sum(), "it lies low"
