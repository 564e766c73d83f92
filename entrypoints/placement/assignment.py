"""Minimum-cost assignment of rows to distinct columns, in plain Python integers."""

from collections.abc import Sequence


def assign(costs: Sequence[Sequence[int]]) -> list[int]:
    """The column of each row such that the sum of costs is least; there must be at least as many columns as rows.

    Successive shortest augmenting paths with node potentials (Kuhn 1955, Munkres 1957; the O(rows² · columns) form of
    Jonker & Volgenant 1987). Ties are broken by position alone, so equal input gives equal output.
    """
    rows = len(costs)
    if not rows:
        return []
    columns = len(costs[0])
    if columns < rows:
        raise ValueError(f"{rows} rows cannot be assigned to {columns} columns")
    row_potential = [0] * rows
    column_potential = [0] * columns
    owner = [-1] * columns
    for start in range(rows):
        # Grow a shortest-path tree from the free row until it reaches a free column.
        best: list[int | None] = [None] * columns
        parent = [-1] * columns
        open_columns = list(range(columns))
        reached: list[int] = []
        row, at = start, -1
        while True:
            line, base = costs[row], row_potential[row]
            nearest, gap = -1, None
            for column in open_columns:
                reduced = line[column] - base - column_potential[column]
                known = best[column]
                if known is None or reduced < known:
                    best[column] = known = reduced
                    parent[column] = at
                if gap is None or known < gap:
                    gap, nearest = known, column
            assert gap is not None
            row_potential[start] += gap
            for column in reached:
                row_potential[owner[column]] += gap
                column_potential[column] -= gap
            open_columns.remove(nearest)
            for column in open_columns:
                best[column] -= gap  # type: ignore[operator]
            reached.append(nearest)
            at = nearest
            if owner[nearest] < 0:
                break
            row = owner[nearest]
        while at >= 0:
            before = parent[at]
            owner[at] = owner[before] if before >= 0 else start
            at = before
    result = [-1] * rows
    for column, row in enumerate(owner):
        if row >= 0:
            result[row] = column
    return result
