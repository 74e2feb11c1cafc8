"""Feature volumes against the full hash grid they are a restriction of."""

import pytest
import torch

from fmgs_nerfstudio.fields.hash_grid import HashGridConfig, corners, encode_reference, levels
from fmgs_nerfstudio.fields.volumes import FeatureVolume

CONFIGS = [
    HashGridConfig(levels=6, features_per_level=2, log2_hashmap_size=10, base_resolution=4, max_resolution=64),
    HashGridConfig(levels=3, features_per_level=4, log2_hashmap_size=14, base_resolution=8, max_resolution=128),
]
AABB = torch.tensor([[-1.0, -1.2, -0.5], [1.0, 1.0, 0.5]])


def sites(count: int = 300, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(seed)) * torch.tensor([0.5, 1.2, 0.4]) - 0.3


def full_table(volume: FeatureVolume) -> torch.Tensor:
    table = torch.full((levels(volume.config).rows, volume.config.features_per_level), torch.nan)
    table[volume.entries] = volume.table.detach()
    return table.requires_grad_()


@pytest.mark.parametrize("config", CONFIGS)
def test_equals_the_full_grid(config):
    torch.manual_seed(0)
    volume = FeatureVolume(sites(), AABB, config)
    torch.nn.init.normal_(volume.table)
    x = (sites() - AABB[0]) / (AABB[1] - AABB[0])
    table = full_table(volume)
    expected = encode_reference(table.view(-1), x, config)  # NaN if a row it needs were missing
    torch.testing.assert_close(volume(), expected, rtol=1e-5, atol=1e-5)

    grad_out = torch.randn_like(expected)
    (grad,) = torch.autograd.grad(volume(), volume.table, grad_out)
    (expected_grad,) = torch.autograd.grad(expected, table, grad_out)
    torch.testing.assert_close(grad, expected_grad[volume.entries], rtol=1e-4, atol=1e-5)
    assert torch.equal(grad, torch.autograd.grad(volume(), volume.table, grad_out)[0])


@pytest.mark.parametrize("config", CONFIGS)
def test_other_devices_and_dtypes_take_the_plain_form(config):
    torch.manual_seed(0)
    volume = FeatureVolume(sites(), AABB, config)
    torch.nn.init.normal_(volume.table)
    grad_out = torch.randn(300, config.channels)
    out = volume()
    (grad,) = torch.autograd.grad(out, volume.table, grad_out)
    volume.double()
    torch.testing.assert_close(volume().float(), out, rtol=1e-5, atol=1e-5)
    (expected_grad,) = torch.autograd.grad(volume(), volume.table, grad_out.double())
    torch.testing.assert_close(grad, expected_grad.float(), rtol=1e-4, atol=1e-5)


def test_table_holds_touched_rows_only():
    volume = FeatureVolume(sites(), AABB, CONFIGS[1])
    index, _ = corners((sites() - AABB[0]) / (AABB[1] - AABB[0]), CONFIGS[1])
    assert torch.equal(volume.entries, index.unique())
    assert volume.table.shape == (len(volume.entries), 4)
    assert len(volume.entries) < levels(CONFIGS[1]).rows
    assert sorted(volume.state_dict()) == ["sites", "table"]
    assert 0.9e-4 < volume.table.abs().max() <= 1e-4


def test_another_number_of_sites_does_not_load():
    saved = FeatureVolume(sites(300), AABB, CONFIGS[0]).state_dict()
    with pytest.raises(RuntimeError, match="size mismatch"):
        FeatureVolume(sites(200), AABB, CONFIGS[0]).load_state_dict(saved)


def test_loads_where_the_template_differs_in_the_last_digit():
    """A site within rounding of a cell's face falls in another cell, which may add or drop a row of the table."""
    config = CONFIGS[1]
    low, high = AABB
    face = (torch.arange(10, 40, 3)[:, None] - 0.5) / levels(config).scale[-1].item()
    on_faces = low + (high - low) * face
    trained = FeatureVolume(torch.cat([sites(), on_faces + 1e-6, on_faces + 1e-6]), AABB, config)
    torch.nn.init.normal_(trained.table)
    opened = FeatureVolume(torch.cat([sites(), on_faces + 1e-6, on_faces - 1e-6]), AABB, config)
    assert opened.table.shape != trained.table.shape
    parameter = opened.table
    opened.load_state_dict(trained.state_dict())
    assert opened.table is parameter  # the optimiser holds it
    assert torch.equal(opened.entries, trained.entries)
    assert torch.equal(opened(), trained())


def test_sites_outside_the_box():
    with pytest.raises(ValueError, match="outside its box"):
        FeatureVolume(sites() + 2, AABB, CONFIGS[0])
