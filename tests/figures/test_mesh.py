"""Meshes of masks: closed, turned outwards, in the right place, and coloured by a distance worked out by hand."""

from collections import Counter

import numpy as np

from mttu.figures.mesh import MOST_FACES, build_mesh, measure_vertices


def ball(radius, extent):
    places = np.indices((extent,) * 3) - (extent - 1) / 2
    return (places**2).sum(axis=0) <= radius**2


def count_edges(mesh):
    return Counter((int(a), int(b)) for face in mesh.faces for a, b in zip(face, np.roll(face, -1), strict=True))


def test_a_ball_is_closed_round_and_turned_outwards():
    mesh = build_mesh(ball(9, 24), (1.0, 1.0, 1.0))
    edges = count_edges(mesh)
    assert set(edges.values()) == {1}
    assert all((b, a) in edges for a, b in edges)
    assert len(mesh.vertices_mm) - len(edges) // 2 + len(mesh.faces) == 2  # Euler: no hole, one piece
    radii = np.linalg.norm(mesh.vertices_mm - 11.5, axis=1)
    assert 8.5 < radii.min() < radii.max() < 9.5
    corners = mesh.vertices_mm[mesh.faces]
    normals = np.cross(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1]) / 2
    volume = (normals * corners.mean(axis=1)).sum() / 3
    assert volume == np.clip(volume, 0.97 * ball(9, 24).sum(), 1.03 * ball(9, 24).sum())


def test_a_mask_at_the_edge_of_the_volume_is_closed_and_keeps_its_spacing():
    mask = np.zeros((5, 4, 3), dtype=bool)
    mask[0, 0, 0] = True
    mesh = build_mesh(mask, (1.0, 1.0, 2.0))
    assert len(mesh.faces) == 6
    extent = mesh.vertices_mm.max(axis=0)
    np.testing.assert_allclose(mesh.vertices_mm.min(axis=0), -extent)
    np.testing.assert_allclose(extent[2], 2 * extent[0], rtol=1e-5)


def test_an_empty_mask_has_no_face():
    mesh = build_mesh(np.zeros((4, 4, 4), dtype=bool), (1.0, 1.0, 1.0))
    assert mesh.faces.shape == (0, 4)
    assert mesh.vertices_mm.shape == (0, 3)


def test_a_large_mesh_is_coarser_and_lies_in_the_same_place():
    mask = np.ones((90, 90, 90), dtype=bool)  # 6 sides of 90 x 90 faces
    mesh = build_mesh(mask, (1.0, 1.0, 1.0))
    assert 0 < len(mesh.faces) <= MOST_FACES < 6 * 90**2
    np.testing.assert_allclose(mesh.vertices_mm.min(axis=0), -0.5, atol=0.6)
    np.testing.assert_allclose(mesh.vertices_mm.max(axis=0), 89.5, atol=0.6)


def test_vertices_have_the_distance_between_two_plates_in_millimetres():
    truth, mask = np.zeros((2, 12, 12, 12), dtype=bool)
    truth[2:10, 2:10, 2] = True
    mask[2:10, 2:10, 5] = True  # three voxels of 1.5 mm above
    spacing_mm = (1.0, 1.0, 1.5)
    mesh = build_mesh(mask, spacing_mm)
    np.testing.assert_allclose(measure_vertices(mesh, mask, truth, spacing_mm), 4.5)
    np.testing.assert_allclose(measure_vertices(mesh, mask, mask, spacing_mm), 0.0)
