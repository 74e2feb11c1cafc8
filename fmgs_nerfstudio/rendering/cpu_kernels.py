"""The 2DGS compositing as numba kernels: sorting, forward, hand-written backward, reduction per surfel.

The image is cut into tiles, shared among the cores; in a tile the surfels come front to back, and each visits the pixels
of its own box, eight at a time. Whatever a tile computes depends on no other, so results are the same bits for any number
of threads.

Around its centre a surfel's point under pixel (x, y) is (c_x / c_z, c_y / c_z) with c linear in the pixel, c = A (dx, dy, 1):
A is the adjugate of the ray transform M, shifted to the centre.
"""

from __future__ import annotations

import numba
import numpy as np

from fmgs_nerfstudio.compiled import device_function, kernel
from fmgs_nerfstudio.rendering.projection import ALPHA_MAX as _ALPHA_MAX
from fmgs_nerfstudio.rendering.projection import ALPHA_MIN as _ALPHA_MIN
from fmgs_nerfstudio.rendering.projection import T_MIN as _T_MIN
from fmgs_nerfstudio.rendering.simd import (
    LANES,
    any_lane,
    exp_negative,
    lane_sums,
    load,
    ramp,
    splat,
    store,
    where,
)

TILE = 16
STRIDE = TILE + LANES  # eight lanes may start at any pixel of a row
PLANE = TILE * STRIDE
RUNS = TILE * (TILE // LANES)  # runs of eight pixels that a surfel can have in a tile
RECORD = 12  # A (9), centre (2), opacity
MOMENTS = 16  # sums over pixels per geometry: 9 of A, 2 of the centre, 1 of the opacity, 4 unused

ALPHA_MAX, ALPHA_MIN, T_MIN = np.float32(_ALPHA_MAX), np.float32(_ALPHA_MIN), np.float32(_T_MIN)


@device_function
def depth_order(depths, visible):
    """Indices of the visible surfels by depth, ties by index: a radix sort of the floats' bits, all positive."""
    order = np.flatnonzero(visible)
    keys = depths.view(np.int32)
    other = np.empty_like(order)
    for shift in (0, 11, 22):
        starts = np.zeros(2049, np.int64)
        for index in order:
            starts[((keys[index] >> shift) & 2047) + 1] += 1
        for digit in range(2048):
            starts[digit + 1] += starts[digit]
        for index in order:
            digit = (keys[index] >> shift) & 2047
            other[starts[digit]] = index
            starts[digit] += 1
        order, other = other, order
    return order


@device_function
def _tiles(box):
    """The tiles that a box (x0, y0, x1, y1; pixels, end exclusive) touches, in the same form."""
    if box[0] >= box[2] or box[1] >= box[3]:
        return 0, 0, 0, 0
    return box[0] // TILE, box[1] // TILE, (box[2] - 1) // TILE + 1, (box[3] - 1) // TILE + 1


@kernel
def prepare(order, columns, means2d, opacities, lower, upper):
    """What a pixel needs of each surfel (RECORD) and its box of pixels, both front to back."""
    records = np.empty((order.size, RECORD), np.float32)
    boxes = np.empty((order.size, 4), np.int32)
    for rank in numba.prange(order.size):
        n = order[rank]
        x, y = means2d[n, 0], means2d[n, 1]
        w = columns[n, :, 2]
        u = columns[n, :, 0] - x * w
        v = columns[n, :, 1] - y * w
        for k in range(3):
            i, j = (k + 1) % 3, (k + 2) % 3
            records[rank, 3 * k] = v[i] * w[j] - v[j] * w[i]
            records[rank, 3 * k + 1] = w[i] * u[j] - w[j] * u[i]
            records[rank, 3 * k + 2] = u[i] * v[j] - u[j] * v[i]
        records[rank, 9], records[rank, 10], records[rank, 11] = x, y, opacities[n]
        for axis in range(2):
            boxes[rank, axis] = np.ceil(lower[n, axis] - np.float32(0.5))
            boxes[rank, 2 + axis] = np.floor(upper[n, axis] - np.float32(0.5)) + 1
    return records, boxes


@device_function
def bin_surfels(boxes, tiles_x, tiles_y):
    """Ranks of the surfels of each tile, front to back, as one list with the tiles' starts; and each surfel's first slot.

    A slot is one (surfel, tile) pair, numbered surfel by surfel: the backward leaves its sums there.
    """
    starts = np.zeros(tiles_x * tiles_y + 1, np.int64)
    first_slot = np.zeros(len(boxes) + 1, np.int64)
    for rank in range(len(boxes)):
        x0, y0, x1, y1 = _tiles(boxes[rank])
        first_slot[rank + 1] = first_slot[rank] + (x1 - x0) * (y1 - y0)
        for ty in range(y0, y1):
            for tx in range(x0, x1):
                starts[ty * tiles_x + tx + 1] += 1
    for tile in range(tiles_x * tiles_y):
        starts[tile + 1] += starts[tile]
    ranks = np.empty(starts[-1], np.int32)
    cursor = starts[:-1].copy()
    for rank in range(len(boxes)):
        x0, y0, x1, y1 = _tiles(boxes[rank])
        for ty in range(y0, y1):
            for tx in range(x0, x1):
                tile = ty * tiles_x + tx
                ranks[cursor[tile]] = rank
                cursor[tile] += 1
    return starts, ranks, first_slot


@device_function
def _clip(box, left, top):
    """A box of pixels within the tile at (left, top), relative to the tile."""
    return max(box[0] - left, 0), max(box[1] - top, 0), min(box[2] - left, TILE), min(box[3] - top, TILE)


@device_function
def _start_tile(scratch, left, top, width, height):
    """Transmittance 1 within the image, 0 in the margin: what a finished pixel has too."""
    for y in range(TILE):
        for x in range(STRIDE):
            inside = x < TILE and left + x < width and top + y < height
            scratch[y * STRIDE + x] = np.float32(1.0) if inside else np.float32(0.0)


@device_function
def _footprint(record, dx, dy):
    """Alpha of a surfel at eight pixels (zero below 1/255), whether the clamp left it alone, and where its gradient goes.

    Returns alpha, is_free, is_gaussian (else the low-pass holds), u, v, 1 / c_z.
    """
    c_x = dx * record[0] + (dy * record[1] + record[2])
    c_y = dx * record[3] + (dy * record[4] + record[5])
    c_z = dx * record[6] + (dy * record[7] + record[8])
    low_pass = dx * dx + dy * dy
    hits = c_z != np.float32(0.0)
    is_gaussian = ((c_x * c_x + c_y * c_y) * np.float32(0.5) <= low_pass * (c_z * c_z)) & hits
    inverse = np.float32(1.0) / where(is_gaussian, c_z, np.float32(1.0))
    u, v = c_x * inverse, c_y * inverse
    sigma = where(is_gaussian, (u * u + v * v) * np.float32(0.5), low_pass)
    alpha = exp_negative(where(sigma < np.float32(80.0), sigma * np.float32(-1.0), np.float32(-80.0))) * record[11]
    is_free = alpha <= ALPHA_MAX
    alpha = where(is_free, alpha, ALPHA_MAX)
    alpha = where((alpha >= ALPHA_MIN) & hits, alpha, np.float32(0.0))
    return alpha, is_free, is_gaussian, u, v, inverse


@kernel
def composite(tiles, tiles_x, starts, ranks, records, boxes, order, values, image, workers):
    """Write sum_i w_i values_i of the listed tiles into the image [C, H, W]."""
    channels, height, width = image.shape
    for worker in numba.prange(workers):
        scratch = np.empty((1 + channels) * PLANE, np.float32)
        for tile in tiles[worker::workers]:
            left, top = tile % tiles_x * TILE, tile // tiles_x * TILE
            _start_tile(scratch, left, top, width, height)
            scratch[PLANE:] = 0
            for rank in ranks[starts[tile] : starts[tile + 1]]:
                record = records[rank]
                row = values[order[rank]]
                x0, y0, x1, y1 = _clip(boxes[rank], left, top)
                for y in range(y0, y1):
                    dy = np.float32(top + y + 0.5) - record[10]
                    for x in range(x0, x1, LANES):
                        at = y * STRIDE + x
                        T = load(scratch, at)
                        if not any_lane(T > np.float32(0.0)):
                            continue
                        dx = ramp() + (np.float32(left + x + 0.5) - record[9])
                        alpha = _footprint(record, dx, dy)[0]
                        next_T = T * (np.float32(1.0) - alpha)
                        stays = next_T > T_MIN
                        weight = where(stays, alpha * T, np.float32(0.0))
                        store(scratch, at, where(stays, next_T, np.float32(0.0)))
                        if any_lane(weight > np.float32(0.0)):
                            for channel in range(channels):
                                at += PLANE
                                store(scratch, at, load(scratch, at) + weight * row[channel])
            for channel in range(channels):
                for y in range(min(TILE, height - top)):
                    at = (1 + channel) * PLANE + y * STRIDE
                    for x in range(min(TILE, width - left)):
                        image[channel, top + y, left + x] = scratch[at + x]


@kernel
def composite_backward(
    tiles, tiles_x, starts, ranks, records, boxes, first_slot, order, values, groups, image, cotangent, workers
):
    """Sums over the pixels of every (surfel, tile) pair, in its slot: MOMENTS per geometry, then the values' gradient.

    Channels groups[g] to groups[g + 1] belong to geometry g; those behind the last group give their geometry no gradient.
    With R = the part of <cotangent, image> that lies behind a surfel, d/d alpha = T <cotangent, values> - R / (1 - alpha).
    """
    channels, height, width = image.shape
    n_groups = groups.size - 1
    padded = -(-channels // LANES) * LANES
    behind = (1 + padded) * PLANE  # R of each group
    slots = np.empty((first_slot[-1], n_groups * MOMENTS + padded), np.float32)
    touched = np.zeros(first_slot[-1], np.bool_)
    for worker in numba.prange(workers):
        scratch = np.zeros((1 + padded + n_groups) * PLANE, np.float32)
        runs = np.empty((7 + n_groups) * RUNS * LANES, np.float32)
        run_at = np.empty(RUNS, np.int64)
        run_x, run_y = np.empty(RUNS, np.float32), np.empty(RUNS, np.float32)
        for tile in tiles[worker::workers]:
            left, top = tile % tiles_x * TILE, tile // tiles_x * TILE
            _start_tile(scratch, left, top, width, height)
            _load_cotangent(scratch, groups, image, cotangent, left, top, behind)
            for rank in ranks[starts[tile] : starts[tile + 1]]:
                record, row = records[rank], values[order[rank]]
                box = boxes[rank]
                x0, y0, x1, y1 = _clip(box, left, top)
                n_runs = 0
                for y in range(y0, y1):
                    dy = np.float32(top + y + 0.5) - record[10]
                    for x in range(x0, x1, LANES):
                        at = y * STRIDE + x
                        T = load(scratch, at)
                        if not any_lane(T > np.float32(0.0)):
                            continue
                        x_first = np.float32(left + x + 0.5) - record[9]
                        dx = ramp() + x_first
                        alpha, is_free, is_gaussian, u, v, inverse = _footprint(record, dx, dy)
                        next_T = T * (np.float32(1.0) - alpha)
                        stays = next_T > T_MIN
                        store(scratch, at, where(stays, next_T, np.float32(0.0)))
                        weight = where(stays, alpha * T, np.float32(0.0))
                        is_hit = weight > np.float32(0.0)
                        if not any_lane(is_hit):
                            continue
                        # alpha = o e^-sigma, so -alpha times the gradient of sigma
                        slope = where(is_hit & is_free, alpha, np.float32(0.0))
                        toward = where(is_gaussian, slope * inverse, np.float32(0.0))
                        run = n_runs * LANES
                        store(runs, run, weight)
                        store(runs, run + RUNS * LANES, toward * u)
                        store(runs, run + 2 * RUNS * LANES, toward * v)
                        store(runs, run + 3 * RUNS * LANES, toward * (u * u + v * v))
                        double = where(is_gaussian, np.float32(0.0), slope * np.float32(2.0))
                        store(runs, run + 4 * RUNS * LANES, double * dx)
                        store(runs, run + 5 * RUNS * LANES, double * dy)
                        store(runs, run + 6 * RUNS * LANES, slope)
                        run_at[n_runs], run_x[n_runs], run_y[n_runs] = at, x_first, dy
                        n_runs += 1
                        T = where(is_hit, T, np.float32(0.0))
                        rest = where(is_hit, np.float32(1.0) / (np.float32(1.0) - alpha), np.float32(0.0))
                        for g in range(n_groups):
                            product = splat(np.float32(0.0))
                            for channel in range(groups[g], groups[g + 1]):
                                product += load(scratch, at + (1 + channel) * PLANE) * row[channel]
                            R = load(scratch, at + behind + g * PLANE) - weight * product
                            store(scratch, at + behind + g * PLANE, R)
                            store(runs, run + (7 + g) * RUNS * LANES, T * product - R * rest)
                if n_runs == 0:
                    continue
                tiles_of = _tiles(box)
                slot = first_slot[rank]
                slot += (tile // tiles_x - tiles_of[1]) * (tiles_of[2] - tiles_of[0]) + tile % tiles_x - tiles_of[0]
                touched[slot] = True
                _sum_runs(slots[slot], scratch, runs, run_at, run_x, run_y, n_runs, n_groups, padded)
    return slots, touched


@device_function
def _load_cotangent(scratch, groups, image, cotangent, left, top, behind):
    channels, height, width = image.shape
    scratch[behind:] = 0
    for channel in range(channels):
        for y in range(min(TILE, height - top)):
            at = (1 + channel) * PLANE + y * STRIDE
            for x in range(min(TILE, width - left)):
                scratch[at + x] = cotangent[channel, top + y, left + x]
    for g in range(groups.size - 1):
        for channel in range(groups[g], groups[g + 1]):
            for y in range(min(TILE, height - top)):
                at = y * STRIDE
                for x in range(min(TILE, width - left)):
                    product = cotangent[channel, top + y, left + x] * image[channel, top + y, left + x]
                    scratch[behind + g * PLANE + at + x] += product


@device_function
def _sum_runs(slot, scratch, runs, run_at, run_x, run_y, n_runs, n_groups, padded):
    """One surfel's sums over its runs of pixels in one tile."""
    zero = splat(np.float32(0.0))
    for g in range(n_groups):
        u0 = u1 = u2 = v0 = v1 = v2 = w0 = w1 = w2 = centre_x = centre_y = opacity = zero
        for r in range(n_runs):
            at = r * LANES
            gradient = load(runs, at + (7 + g) * RUNS * LANES)
            dx, dy = ramp() + run_x[r], run_y[r]
            u = gradient * load(runs, at + RUNS * LANES)
            v = gradient * load(runs, at + 2 * RUNS * LANES)
            w = gradient * load(runs, at + 3 * RUNS * LANES)
            u0, u1, u2 = u0 + u, u1 + u * dx, u2 + u * dy
            v0, v1, v2 = v0 + v, v1 + v * dx, v2 + v * dy
            w0, w1, w2 = w0 + w, w1 + w * dx, w2 + w * dy
            centre_x += gradient * load(runs, at + 4 * RUNS * LANES)
            centre_y += gradient * load(runs, at + 5 * RUNS * LANES)
            opacity += gradient * load(runs, at + 6 * RUNS * LANES)
        store(slot, g * MOMENTS, lane_sums(u0, u1, u2, v0, v1, v2, w0, w1))
        store(slot, g * MOMENTS + LANES, lane_sums(w2, centre_x, centre_y, opacity, zero, zero, zero, zero))
    for channel in range(0, padded, LANES):
        a = b = c = d = e = f = g_ = h = zero
        for r in range(n_runs):
            weight = load(runs, r * LANES)
            at = run_at[r] + (1 + channel) * PLANE
            a += weight * load(scratch, at)
            b += weight * load(scratch, at + PLANE)
            c += weight * load(scratch, at + 2 * PLANE)
            d += weight * load(scratch, at + 3 * PLANE)
            e += weight * load(scratch, at + 4 * PLANE)
            f += weight * load(scratch, at + 5 * PLANE)
            g_ += weight * load(scratch, at + 6 * PLANE)
            h += weight * load(scratch, at + 7 * PLANE)
        store(slot, n_groups * MOMENTS + channel, lane_sums(a, b, c, d, e, f, g_, h))


@kernel
def reduce_slots(order, first_slot, slots, touched, columns, means2d, opacities, n_groups, channels):
    """Gradients per surfel from the slots: of each geometry's ray transform (transposed) and opacity, and of the values."""
    count = opacities.size
    v_columns = np.zeros((n_groups, count, 3, 3), np.float32)
    v_opacities = np.zeros((n_groups, count), np.float32)
    v_values = np.zeros((count, channels), np.float32)
    for rank in numba.prange(order.size):
        n = order[rank]
        for slot in range(first_slot[rank], first_slot[rank + 1]):
            if touched[slot]:
                for channel in range(channels):
                    v_values[n, channel] += slots[slot, n_groups * MOMENTS + channel]
                for g in range(n_groups):
                    _add_geometry(
                        v_columns[g, n], slots[slot, g * MOMENTS : (g + 1) * MOMENTS], columns[n], means2d[n]
                    )
                    v_opacities[g, n] += slots[slot, g * MOMENTS + 11] / opacities[n]
    return v_columns, v_opacities, v_values


@device_function
def _cross(a0, a1, a2, b0, b1, b2):
    return a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0


@device_function
def _add_geometry(v_columns, moments, columns, centre):
    """Add one slot's gradient of the ray transform, through c = A (dx, dy, 1) and through the centre."""
    x, y = centre
    w = (columns[0, 2], columns[1, 2], columns[2, 2])
    u = (columns[0, 0] - x * w[0], columns[1, 0] - x * w[1], columns[2, 0] - x * w[2])
    v = (columns[0, 1] - y * w[0], columns[1, 1] - y * w[1], columns[2, 1] - y * w[2])
    # Gradients of the columns of A. Those of sigma are (u, v, -(u^2 + v^2)) / c_z, and alpha falls with sigma.
    g1 = (-moments[1], -moments[4], moments[7])
    g2 = (-moments[2], -moments[5], moments[8])
    g0 = (-moments[0], -moments[3], moments[6])
    # A = [v x w, w x u, u x v]
    v_u = _add(_cross(*g2, *w), _cross(*v, *g0))
    v_v = _add(_cross(*w, *g1), _cross(*g0, *u))
    v_w = _add(_cross(*g1, *v), _cross(*u, *g2))
    # centre_r = sum_j s_j M_rj w_j / d with d = sum_j s_j w_j^2 and s = (1, 1, -1)
    inverse = np.float32(1.0) / (w[0] * w[0] + w[1] * w[1] - w[2] * w[2])
    v_x, v_y = moments[9] * inverse, moments[10] * inverse
    for j in range(3):
        s = np.float32(-1.0) if j == 2 else np.float32(1.0)
        v_columns[j, 0] += v_u[j] + v_x * s * w[j]
        v_columns[j, 1] += v_v[j] + v_y * s * w[j]
        # M_rj - centre_r w_j is the shifted row; the other centre_r w_j is the shift's own, of u and v
        v_columns[j, 2] += v_w[j] - x * v_u[j] - y * v_v[j]
        v_columns[j, 2] += s * (v_x * (u[j] - x * w[j]) + v_y * (v[j] - y * w[j]))


@device_function
def _add(a, b):
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]
