"""Kernel notation: what is read, and what is unknown rather than an error."""

import pytest

from entrypoints.topology.values import bus_id, bus_order, ids_of_list, ids_of_mask, integer, natural


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("0-3,8", (0, 1, 2, 3, 8)),
        ("", ()),
        ("0-7:2/4", (0, 1, 4, 5)),
        (None, None),
        ("5-2", None),
        ("a", None),
        ("0-99999", None),
        ("9" * 5000, None),
    ],
)
def test_lists(text: str | None, ids: tuple[int, ...] | None) -> None:
    assert ids_of_list(text) == ids


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("f", (0, 1, 2, 3)),
        ("1,00000000", (32,)),
        ("0x1,,0x3", (0, 1, 64)),
        ("0x0", ()),
        (None, None),
        ("xyz", None),
        ("1,", (32,)),
        ("1ffffffff,0", None),
    ],
)
def test_masks(text: str | None, ids: tuple[int, ...] | None) -> None:
    assert ids_of_mask(text) == ids


def test_numbers() -> None:
    assert [integer(text) for text in ("7", "0x10", "-1", "", None, "seven", "9" * 30)] == [7, 16, None, None, None, None, None]


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("0000:82:00.0", "0000:82:00.0"),
        ("00000000:1B:00.0", "0000:1b:00.0"),
        ("10000:e0:06.0", "10000:e0:06.0"),
        ("82:00.0", "0000:82:00.0"),
        ("x", None),
    ],
)
def test_bus_ids(text: str, known: str | None) -> None:
    assert bus_id(text) == known


def test_orders() -> None:
    assert sorted(["10000:00:00.0", "0002:00:00.0", "0000:a0:00.0", "0000:0b:00.0"], key=bus_order)[0] == "0000:0b:00.0"
    assert sorted(["mlx5_10", "mlx5_2", "mlx5_bond_0", "4a", "a"], key=natural)[:2] == ["4a", "a"]
    assert sorted(["mlx5_10", "mlx5_2"], key=natural) == ["mlx5_2", "mlx5_10"]
