"""The matrix in small: any two of model, tp, pp, dp, ep and mode meet in a cell that is exact."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

import matrix
from covering import combined, covering


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> matrix.Models:
    return matrix.Models(tmp_path_factory.mktemp("matrix"))


@pytest.fixture(scope="session")
def cells(models: matrix.Models) -> list[matrix.Cell]:
    return matrix.covering_cells(matrix.possible(models)[0], strength=2)


@pytest.mark.parametrize("name", matrix.WRITERS)
def test_cells_are_exact(name: str, models: matrix.Models, cells: list[matrix.Cell]) -> None:
    mine = [cell for cell in cells if cell.model == name]
    assert {cell.tp for cell in mine} >= {1, 2, 4}
    faults = {str(cell): matrix.faults(cell, matrix.run_cell(models, cell)) for cell in mine}
    assert not {cell: fault for cell, fault in faults.items() if fault}


@given(
    sizes=st.lists(st.integers(1, 4), min_size=2, max_size=5),
    strength=st.integers(1, 3),
    left_out=st.sets(st.integers(0, 30)),
)
def test_a_covering_set_holds_what_any_row_holds(
    sizes: list[int], strength: int, left_out: set[int]
) -> None:
    every = list(product(*map(range, sizes)))
    rows = [row for i, row in enumerate(every) if i not in left_out]
    chosen = covering(rows, strength=strength)
    assert len(set(chosen)) == len(chosen)
    assert set(chosen) <= set(rows)
    held = {one for row in chosen for one in combined(row, strength)}
    assert held == {one for row in rows for one in combined(row, strength)}
