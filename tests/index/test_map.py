"""The map of a collection: the plane is the one of largest variance, and what is drawn on it is the collection."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grace_server.index import mapping
from grace_server.index.projection import plane_of
from grace_server.index.vectors import Floats
from tests.index.conftest import OpenService, Service
from tests.index.test_routes import TEXTS, filled


def spread(seed: int, rows: int, width: int) -> Floats:
    """Vectors with a few directions of large spread among many of small, away from the origin."""
    draw = np.random.default_rng(seed)
    scales = 1.0 / (1.0 + np.arange(width)) ** 1.5
    turned, _ = np.linalg.qr(draw.standard_normal((width, width)))
    return np.asarray(draw.standard_normal((rows, width)) * scales @ turned + draw.standard_normal(width), np.float32)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(1, 40))
def test_the_plane_is_that_of_the_two_first_singular_vectors(seed: int, rows: int, width: int) -> None:
    vectors = spread(seed, rows, width)
    plane = plane_of(vectors)
    values = np.linalg.svd(vectors.astype(np.float64) - vectors.mean(0, dtype=np.float64), compute_uv=False) ** 2
    best = np.array([*values[:2], 0.0, 0.0])[:2] / max(values.sum(), 1e-300)
    if values.sum() > 1e-6:
        assert plane.explained == pytest.approx(tuple(best), abs=1e-3)
    placed = plane.place(vectors)
    assert np.abs(placed.mean(axis=0)).max() < 1e-3
    assert np.square(placed).sum(axis=0) == pytest.approx(best * values.sum(), abs=1e-3 * max(1.0, values.sum()))


@pytest.mark.parametrize("vectors", [np.zeros((0, 8)), np.ones((1, 8)), np.ones((5, 8)), np.ones((3, 1))])
def test_where_nothing_differs_all_lie_in_the_middle(vectors: Floats) -> None:
    plane = plane_of(vectors.astype(np.float32))
    assert plane.explained == (0.0, 0.0)
    assert not plane.place(vectors.astype(np.float32)).any()


@pytest.mark.parametrize("length", [1e-3, 1e19])
def test_the_picture_is_the_same_however_long_the_vectors_are(length: float) -> None:
    vectors = spread(2, 50, 30)
    plane, scaled = plane_of(vectors), plane_of(vectors * np.float32(length))
    assert scaled.explained == pytest.approx(plane.explained, rel=1e-4)
    assert scaled.place(vectors * np.float32(length)) / length == pytest.approx(plane.place(vectors), abs=1e-3)


def test_the_same_vectors_give_the_same_picture() -> None:
    vectors = spread(1, 50, 30)
    assert np.array_equal(plane_of(vectors).place(vectors), plane_of(vectors.copy()).place(vectors))


async def chart(service: Service) -> dict[str, Any]:
    reply = await service.http.get("/indexes/a/map")
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


async def test_a_map_shows_every_document_and_a_query_where_its_own_text_lies(open_service: OpenService) -> None:
    async with open_service() as service:
        await filled(service, document_mode="direct", query_mode="direct")
        drawn = await chart(service)
        assert sorted(drawn["ids"]) == sorted(TEXTS)
        assert drawn["documents"] == len(drawn["x"]) == len(drawn["y"]) == 3
        assert sum(drawn["explained"]) == pytest.approx(1.0, abs=1e-4)  # three points lie on a plane
        body = {"query": TEXTS["river"], "seq": drawn["seq"]}
        calls = service.engine.calls
        placed = (await service.http.post("/indexes/a/map/query", json=body)).json()
        assert service.engine.calls == calls + 1
        collection = service.indexes.catalog.get("a")
        plane = service.indexes.maps.of(collection, drawn["seq"]).plane
        asked = await service.indexes.model.embed(collection, TEXTS["river"], role="query", mode="direct")
        assert [placed["x"], placed["y"]] == pytest.approx(plane.place(asked.vector[None])[0].tolist(), abs=1e-4)


async def test_points_are_coloured_by_what_the_metadata_says(open_service: OpenService) -> None:
    async with open_service() as service:
        await filled(service)
        await service.http.post(
            "/indexes/a/documents",
            json={
                "documents": [{"id": "x", "text": "No tags.", "metadata": {"kind": "odd", "ok": True}}],
                "wait": True,
            },
        )
        drawn = await chart(service)
        fields = {field["name"]: field for field in drawn["fields"]}
        assert fields["n"] == {"name": "n", "kind": "number", "documents": 3, "distinct": 3}
        assert fields["kind"]["kind"] == fields["ok"]["kind"] == "category"
        assert "tags" not in fields  # a list is no value to colour by

        async def values(field: str) -> dict[str, Any]:
            reply = await service.http.get("/indexes/a/map/values", params={"field": field, "seq": drawn["seq"]})
            assert reply.status_code == 200, reply.text
            return dict(zip(drawn["ids"], reply.json()["values"], strict=True)) | {"names": reply.json()["names"]}

        assert await values("n") == {"river": 0, "bridge": 1, "harbour": 2, "x": None, "names": []}
        assert await values("ok") == {"river": None, "bridge": None, "harbour": None, "x": 0, "names": ["true"]}
        assert (await values("'; --"))["names"] == []


async def test_a_map_is_drawn_anew_only_after_a_change(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = 0
    plane_as_ever = mapping.plane_of

    def counted(vectors: Floats) -> Any:
        nonlocal drawn
        drawn += 1
        return plane_as_ever(vectors)

    monkeypatch.setattr(mapping, "plane_of", counted)
    async with open_service() as service:
        await filled(service)
        first = await chart(service)
        assert await chart(service) == first
        assert drawn == 1
        await service.http.delete("/indexes/a/documents/river")
        assert "river" not in (await chart(service))["ids"]
        assert drawn == 2


async def test_a_large_collection_is_shown_in_part_and_says_so(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapping, "MAX_POINTS", 2)
    async with open_service() as service:
        await filled(service)
        drawn = await chart(service)
        assert drawn["documents"] == 3
        assert len(drawn["ids"]) == 2


async def test_rare_values_share_a_place_past_the_names(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapping, "MAX_NAMES", 1)
    async with open_service() as service:
        await service.http.put("/indexes/a")
        documents = [{"id": str(i), "text": f"Text {i}.", "metadata": {"k": "ab"[i == 2]}} for i in range(3)]
        await service.http.post("/indexes/a/documents", json={"documents": documents, "wait": True})
        drawn = await chart(service)
        found = (await service.http.get("/indexes/a/map/values", params={"field": "k", "seq": drawn["seq"]})).json()
        assert found["names"] == ["a"]
        assert dict(zip(drawn["ids"], found["values"], strict=True)) == {"0": 0, "1": 0, "2": 1}


async def test_a_map_that_is_not_kept_and_an_empty_index(open_service: OpenService) -> None:
    async with open_service() as service:
        await service.http.put("/indexes/a")
        drawn = await chart(service)
        assert drawn["ids"] == drawn["x"] == drawn["fields"] == []
        placed = await service.http.post("/indexes/a/map/query", json={"query": "x", "seq": drawn["seq"]})
        assert placed.json() == {"object": "map_place", "x": 0.0, "y": 0.0}
        other = await service.http.post("/indexes/a/map/query", json={"query": "x", "seq": 999})
        assert other.status_code == 409
        assert other.json()["error"]["param"] == "seq"
        assert (await service.http.get("/indexes/none/map")).status_code == 404
