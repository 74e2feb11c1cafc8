"""2DGS compositing as numba kernels: projection and binning, forward, hand-written backward.

The image is cut into tiles, dealt to the cores. In a tile the surfels come front to back, and each visits the pixels of its
own box, eight at a time. What a tile computes depends on no other: results are the same bits for any number of threads.

Around its centre a surfel's point under a pixel is (u, v) = (c_x, c_y) / c_z with c linear in the pixel, c = A (dx, dy, 1):
A is the adjugate of the ray transform M, whose rows x, y, w are taken from the centre as origin.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from fmgs_nerfstudio.compiled import device_function, kernel
from fmgs_nerfstudio.rendering import projection as definition
from fmgs_nerfstudio.rendering.simd import (
    LANES,
    any_lane,
    exp_negative,
    lane_sums,
    load,
    prefetch,
    ramp,
    splat,
    store,
    where,
)

TILE = 16
STRIDE = TILE + LANES  # eight lanes may start at any pixel of a row
PLANE = TILE * STRIDE
RUN = TILE * (TILE // LANES) * LANES  # floats of all runs of eight pixels that a surfel can have in a tile
RECORD = 16  # of a surfel: A (9), centre (2), opacity, box of pixels x0, y0, x1, y1 (end exclusive)
MOMENTS = 12  # of a surfel in a tile, for one geometry: 9 of A, 2 of the centre, 1 of the opacity
AHEAD = 4  # surfels to ask the memory for in advance

ZERO, HALF, ONE, TWO = (np.float32(x) for x in (0.0, 0.5, 1.0, 2.0))
ALPHA_MAX, ALPHA_MIN, T_MIN, NEAR = (
    np.float32(x) for x in (definition.ALPHA_MAX, definition.ALPHA_MIN, definition.T_MIN, definition.NEAR)
)
ELLIPSE, ROUNDING = np.float32(definition.ELLIPSE), np.float32(definition.ROUNDING)


@device_function
def _cross(a, b):
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@device_function
def _plus(a, s, b):
    """a + s b"""
    return a[0] + s * b[0], a[1] + s * b[1], a[2] + s * b[2]


@device_function
def _signed(a):
    return a[0], a[1], -a[2]


@device_function
def _signed_dot(a, b, radius2):
    return radius2 * (a[0] * b[0] + a[1] * b[1]) - a[2] * b[2]


@device_function
def _rows(n, means, tangents, to_pixels):
    """The rows of M = K [s_u t_u, s_v t_v, p], as `projection.ray_transforms`."""
    x, y, z = means[n, 0], means[n, 1], means[n, 2]
    ux, uy, uz = tangents[n, 0, 0], tangents[n, 1, 0], tangents[n, 2, 0]
    vx, vy, vz = tangents[n, 0, 1], tangents[n, 1, 1], tangents[n, 2, 1]
    P = to_pixels
    return (
        (
            P[0, 0] * ux + P[0, 1] * uy + P[0, 2] * uz,
            P[0, 0] * vx + P[0, 1] * vy + P[0, 2] * vz,
            P[0, 0] * x + P[0, 1] * y + P[0, 2] * z + P[0, 3],
        ),
        (
            P[1, 0] * ux + P[1, 1] * uy + P[1, 2] * uz,
            P[1, 0] * vx + P[1, 1] * vy + P[1, 2] * vz,
            P[1, 0] * x + P[1, 1] * y + P[1, 2] * z + P[1, 3],
        ),
        (
            P[2, 0] * ux + P[2, 1] * uy + P[2, 2] * uz,
            P[2, 0] * vx + P[2, 1] * vy + P[2, 2] * vz,
            P[2, 0] * x + P[2, 1] * y + P[2, 2] * z + P[2, 3],
        ),
    )


@kernel
def project(means, tangents, opacities, to_pixels, width, height, records, depths):
    """Write records (zeros come in; they stay, and with them an empty box, where a surfel shows nowhere) and depths.

    The maths is `projection`'s; to_pixels is K [R | t].
    """
    for n in numba.prange(len(means)):
        x, y, w = _rows(n, means, tangents, to_pixels)
        depths[n] = w[2]
        reach = w[0] * w[0] + w[1] * w[1]
        opacity = opacities[n]
        if not (w[2] > NEAR and reach < ELLIPSE * w[2] * w[2] and opacity > ALPHA_MIN):
            continue
        scale = ONE / (reach - w[2] * w[2])
        centre = _signed_dot(x, w, ONE) * scale, _signed_dot(y, w, ONE) * scale
        x, y = _plus(x, -centre[0], w), _plus(y, -centre[1], w)
        A_x, A_y, A_z = _cross(y, w), _cross(w, x), _cross(x, y)
        for k in range(3):
            records[n, 3 * k], records[n, 3 * k + 1], records[n, 3 * k + 2] = A_x[k], A_y[k], A_z[k]
        records[n, 9], records[n, 10], records[n, 11] = centre[0], centre[1], opacity

        radius2 = TWO * math.log(opacity / ALPHA_MIN)
        disc = math.sqrt(radius2 * HALF)
        is_ellipse = radius2 * reach < ELLIPSE * w[2] * w[2]
        scale = ONE / (radius2 * reach - w[2] * w[2])
        for axis in range(2):
            row, size = (y, height) if axis else (x, width)
            lower, upper = ZERO, np.float32(size)
            if is_ellipse:
                offset = _signed_dot(row, w, radius2) * scale
                half = math.sqrt(max(offset * offset - _signed_dot(row, row, radius2) * scale, ZERO))
                lower = min(max(centre[axis] + min(offset - half, -disc) - ROUNDING, lower), upper)
                upper = max(min(centre[axis] + max(offset + half, disc) + ROUNDING, upper), ZERO)
            records[n, 12 + axis] = np.ceil(lower - HALF)
            records[n, 14 + axis] = np.floor(upper - HALF) + ONE


@device_function
def _tiles(records, n):
    """The range of tiles that a surfel's box touches: x0, y0, x1, y1, end exclusive."""
    x0, y0, x1, y1 = int(records[n, 12]), int(records[n, 13]), int(records[n, 14]), int(records[n, 15])
    if x0 >= x1 or y0 >= y1:
        return 0, 0, 0, 0
    return x0 // TILE, y0 // TILE, (x1 - 1) // TILE + 1, (y1 - 1) // TILE + 1


@device_function
def depth_order(depths, first_slot):
    """Surfels that have a slot by depth, ties by index: a radix sort of the floats' bits, all positive."""
    order = np.flatnonzero(first_slot[1:] > first_slot[:-1]).astype(np.int32)
    other = np.empty_like(order)
    keys = depths.view(np.int32)
    for shift in (0, 11, 22):
        starts = np.zeros(2049, np.int64)
        for n in order:
            starts[((keys[n] >> shift) & 2047) + 1] += 1
        for digit in range(2048):
            starts[digit + 1] += starts[digit]
        for n in order:
            digit = (keys[n] >> shift) & 2047
            other[starts[digit]] = n
            starts[digit] += 1
        order, other = other, order
    return order


@device_function
def bin_surfels(records, depths, tiles_x, tiles_y):
    """The surfels of each tile front to back, as one list with the tiles' starts; and each surfel's first slot.

    A slot is one (surfel, tile) pair, numbered surfel by surfel: where the backward leaves that pair's sums.
    """
    starts = np.zeros(tiles_x * tiles_y + 1, np.int64)
    first_slot = np.zeros(len(records) + 1, np.int64)
    for n in range(len(records)):
        x0, y0, x1, y1 = _tiles(records, n)
        first_slot[n + 1] = first_slot[n] + (x1 - x0) * (y1 - y0)
        for ty in range(y0, y1):
            for tx in range(x0, x1):
                starts[ty * tiles_x + tx + 1] += 1
    for tile in range(tiles_x * tiles_y):
        starts[tile + 1] += starts[tile]
    surfels = np.empty(starts[-1], np.int32)
    cursor = starts[:-1].copy()
    for n in depth_order(depths, first_slot):
        x0, y0, x1, y1 = _tiles(records, n)
        for ty in range(y0, y1):
            for tx in range(x0, x1):
                tile = ty * tiles_x + tx
                surfels[cursor[tile]] = n
                cursor[tile] += 1
    return starts, surfels, first_slot


@device_function
def _start_tile(scratch, left, top, width, height):
    """Transmittance 1 within the image, 0 in the margin: what a finished pixel has too."""
    scratch[:PLANE] = ZERO
    for y in range(min(TILE, height - top)):
        for x in range(min(TILE, width - left)):
            scratch[y * STRIDE + x] = ONE


@device_function
def _clip(records, n, left, top):
    """A surfel's box within the tile, relative to it."""
    return (
        max(int(records[n, 12]) - left, 0),
        max(int(records[n, 13]) - top, 0),
        min(int(records[n, 14]) - left, TILE),
        min(int(records[n, 15]) - top, TILE),
    )


@device_function
def _coefficients(records, n):
    return (
        (records[n, 0], records[n, 1], records[n, 2]),
        (records[n, 3], records[n, 4], records[n, 5]),
        (records[n, 6], records[n, 7], records[n, 8]),
        records[n, 11],
    )


@device_function
def _footprint(coefficients, dx, dy):
    """A surfel at eight pixels: alpha (zero below 1/255), whether ALPHA_MAX left it alone, whether the Gaussian holds
    (else the low-pass), u, v, 1 / c_z.
    """
    A_x, A_y, A_z, opacity = coefficients
    c_x = dx * A_x[0] + (dy * A_x[1] + A_x[2])
    c_y = dx * A_y[0] + (dy * A_y[1] + A_y[2])
    c_z = dx * A_z[0] + (dy * A_z[1] + A_z[2])
    low_pass = dx * dx + dy * dy
    hits = c_z != ZERO
    is_gaussian = ((c_x * c_x + c_y * c_y) * HALF <= low_pass * (c_z * c_z)) & hits
    inverse = ONE / where(is_gaussian, c_z, ONE)
    u, v = c_x * inverse, c_y * inverse
    sigma = where(is_gaussian, (u * u + v * v) * HALF, low_pass)
    alpha = exp_negative(where(sigma < np.float32(80.0), ZERO - sigma, np.float32(-80.0))) * opacity
    is_free = alpha <= ALPHA_MAX
    alpha = where(is_free, alpha, ALPHA_MAX)
    return where((alpha >= ALPHA_MIN) & hits, alpha, ZERO), is_free, is_gaussian, u, v, inverse


@kernel
def composite(tiles, tiles_x, starts, surfels, records, values, image, workers):
    """Write sum_i w_i values_i [N, C] to the listed tiles of the image [C, H, W]."""
    channels, height, width = image.shape
    flat_records, flat_values = records.reshape(-1), values.reshape(-1)
    for worker in numba.prange(workers):
        scratch = np.empty((1 + channels) * PLANE, np.float32)
        for k in range(worker, tiles.size, workers):
            tile = tiles[k]
            left, top = tile % tiles_x * TILE, tile // tiles_x * TILE
            _start_tile(scratch, left, top, width, height)
            scratch[PLANE:] = ZERO
            for entry in range(starts[tile], starts[tile + 1]):
                n = surfels[entry]
                ahead = surfels[min(entry + AHEAD, surfels.size - 1)]
                prefetch(flat_records, ahead * RECORD)
                prefetch(flat_values, ahead * channels)
                coefficients = _coefficients(records, n)
                x0, y0, x1, y1 = _clip(records, n, left, top)
                for y in range(y0, y1):
                    dy = np.float32(top + y) + HALF - records[n, 10]
                    for x in range(x0, x1, LANES):
                        at = y * STRIDE + x
                        T = load(scratch, at)
                        if not any_lane(T > ZERO):
                            continue
                        dx = ramp() + (np.float32(left + x) + HALF - records[n, 9])
                        alpha = _footprint(coefficients, dx, dy)[0]
                        next_T = T * (ONE - alpha)
                        goes_on = next_T > T_MIN
                        weight = where(goes_on, alpha * T, ZERO)
                        store(scratch, at, where(goes_on, next_T, ZERO))
                        if any_lane(weight > ZERO):
                            for channel in range(channels):
                                at += PLANE
                                store(scratch, at, load(scratch, at) + weight * values[n, channel])
            for channel in range(channels):
                for y in range(min(TILE, height - top)):
                    at = (1 + channel) * PLANE + y * STRIDE
                    for x in range(min(TILE, width - left)):
                        image[channel, top + y, left + x] = scratch[at + x]


@kernel
def composite_backward(
    tiles, tiles_x, starts, surfels, first_slot, records, values, groups, image, cotangent, slots, touched, workers
):
    """Sums over the pixels of every (surfel, tile) pair, in its slot: MOMENTS per geometry, then the values' gradient.

    Channels groups[g] to groups[g + 1] belong to geometry g; those behind the last group reach no geometry.
    """
    channels, height, width = image.shape
    n_groups = groups.size - 1
    padded = -(-channels // LANES) * LANES
    flat_records, flat_values, flat_slots = records.reshape(-1), values.reshape(-1), slots.reshape(-1)
    for worker in numba.prange(workers):
        # Planes of pixels: T, the cotangent's channels, and of each group the part R of <cotangent, image> not yet passed
        scratch = np.zeros((1 + padded + n_groups) * PLANE, np.float32)
        runs = np.empty((7 + n_groups) * RUN, np.float32)
        run_at = np.empty(RUN // LANES, np.int64)
        run_x, run_y = np.empty(RUN // LANES, np.float32), np.empty(RUN // LANES, np.float32)
        for k in range(worker, tiles.size, workers):
            tile = tiles[k]
            left, top = tile % tiles_x * TILE, tile // tiles_x * TILE
            _start_tile(scratch, left, top, width, height)
            _load_cotangent(scratch, groups, image, cotangent, left, top, padded)
            for entry in range(starts[tile], starts[tile + 1]):
                n = surfels[entry]
                ahead = surfels[min(entry + AHEAD, surfels.size - 1)]
                prefetch(flat_records, ahead * RECORD)
                prefetch(flat_values, ahead * channels)
                n_runs = _visit(
                    n, records, values, groups, left, top, padded, scratch, runs, run_at, run_x, run_y
                )
                if n_runs > 0:
                    x0, y0, x1, _ = _tiles(records, n)
                    slot = first_slot[n] + (tile // tiles_x - y0) * (x1 - x0) + tile % tiles_x - x0
                    touched[slot] = True
                    _sum_runs(flat_slots, slot, slots.shape[1], scratch, runs, run_at, run_x, run_y, n_runs, n_groups, padded)


@device_function
def _load_cotangent(scratch, groups, image, cotangent, left, top, padded):
    channels, height, width = image.shape
    scratch[(1 + padded) * PLANE :] = ZERO
    group = 0
    for channel in range(channels):
        while group < groups.size and groups[group] <= channel:
            group += 1
        for y in range(min(TILE, height - top)):
            at = (1 + channel) * PLANE + y * STRIDE
            for x in range(min(TILE, width - left)):
                scratch[at + x] = cotangent[channel, top + y, left + x]
            if group < groups.size:
                at_R = (padded + group) * PLANE + y * STRIDE
                for x in range(min(TILE, width - left)):
                    scratch[at_R + x] += scratch[at + x] * image[channel, top + y, left + x]


@device_function
def _visit(n, records, values, groups, left, top, padded, scratch, runs, run_at, run_x, run_y):
    """Composite one surfel again, and leave what its sums need for each run of eight pixels it shows in.

    d/d alpha = T <cotangent, values> - R / (1 - alpha), with R what lies behind the surfel.
    """
    n_groups = groups.size - 1
    coefficients = _coefficients(records, n)
    x0, y0, x1, y1 = _clip(records, n, left, top)
    n_runs = 0
    for y in range(y0, y1):
        dy = np.float32(top + y) + HALF - records[n, 10]
        for x in range(x0, x1, LANES):
            at = y * STRIDE + x
            T = load(scratch, at)
            if not any_lane(T > ZERO):
                continue
            x_first = np.float32(left + x) + HALF - records[n, 9]
            dx = ramp() + x_first
            alpha, is_free, is_gaussian, u, v, inverse = _footprint(coefficients, dx, dy)
            next_T = T * (ONE - alpha)
            goes_on = next_T > T_MIN
            weight = where(goes_on, alpha * T, ZERO)
            store(scratch, at, where(goes_on, next_T, ZERO))
            shows = weight > ZERO
            if not any_lane(shows):
                continue
            # alpha = o e^-sigma: its gradient is -alpha times that of sigma
            slope = where(shows & is_free, alpha, ZERO)
            of_gaussian = where(is_gaussian, slope * inverse, ZERO)
            of_low_pass = where(is_gaussian, ZERO, slope * TWO)
            run = n_runs * LANES
            store(runs, run, weight)
            store(runs, run + RUN, slope)
            store(runs, run + 2 * RUN, of_gaussian * u)
            store(runs, run + 3 * RUN, of_gaussian * v)
            store(runs, run + 4 * RUN, of_gaussian * (u * u + v * v))
            store(runs, run + 5 * RUN, of_low_pass * dx)
            store(runs, run + 6 * RUN, of_low_pass * dy)
            run_at[n_runs], run_x[n_runs], run_y[n_runs] = at, x_first, dy
            n_runs += 1
            T = where(shows, T, ZERO)
            over = where(shows, ONE / (ONE - alpha), ZERO)
            for g in range(n_groups):
                product = splat(ZERO)
                for channel in range(groups[g], groups[g + 1]):
                    product += load(scratch, at + (1 + channel) * PLANE) * values[n, channel]
                at_R = at + (1 + padded + g) * PLANE
                R = load(scratch, at_R) - weight * product
                store(scratch, at_R, R)
                store(runs, run + (7 + g) * RUN, T * product - R * over)
    return n_runs


@device_function
def _sum_runs(flat_slots, slot, width, scratch, runs, run_at, run_x, run_y, n_runs, n_groups, padded):
    """One surfel's sums over its runs of pixels in one tile."""
    out = slot * width
    zero = splat(ZERO)
    for g in range(n_groups):
        x0 = x1 = x2 = y0 = y1 = y2 = z0 = z1 = z2 = centre_x = centre_y = opacity = zero
        for r in range(n_runs):
            run = r * LANES
            v_alpha = load(runs, run + (7 + g) * RUN)
            dx, dy = ramp() + run_x[r], run_y[r]
            x = v_alpha * load(runs, run + 2 * RUN)
            y = v_alpha * load(runs, run + 3 * RUN)
            z = v_alpha * load(runs, run + 4 * RUN)
            x0, x1, x2 = x0 + x * dx, x1 + x * dy, x2 + x
            y0, y1, y2 = y0 + y * dx, y1 + y * dy, y2 + y
            z0, z1, z2 = z0 + z * dx, z1 + z * dy, z2 + z
            centre_x += v_alpha * load(runs, run + 5 * RUN)
            centre_y += v_alpha * load(runs, run + 6 * RUN)
            opacity += v_alpha * load(runs, run + RUN)
        store(flat_slots, out, lane_sums(x0, x1, x2, y0, y1, y2, z0, z1))
        # Four lanes too many: what comes next overwrites them.
        store(flat_slots, out + LANES, lane_sums(z2, centre_x, centre_y, opacity, zero, zero, zero, zero))
        out += MOMENTS
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
        store(flat_slots, out + channel, lane_sums(a, b, c, d, e, f, g_, h))


@kernel
def reduce_slots(
    first_slot, slots, touched, means, tangents, opacities, to_pixels, v_means, v_tangents, v_opacities, v_values
):
    """Write each surfel's gradients from its slots, into zeros: of every geometry's means [G, N, 3], tangents [G, N, 3, 2] and
    opacities [G, N], and of the values [N, C]. Spoils the slots.
    """
    n_groups, count = v_opacities.shape
    for n in numba.prange(count):
        first = -1
        for slot in range(first_slot[n], first_slot[n + 1]):
            if touched[slot] and first < 0:
                first = slot
            elif touched[slot]:
                for i in range(slots.shape[1]):
                    slots[first, i] += slots[slot, i]
        if first < 0:
            continue
        for channel in range(v_values.shape[1]):
            v_values[n, channel] = slots[first, n_groups * MOMENTS + channel]
        rows = _rows(n, means, tangents, to_pixels)
        for g in range(n_groups):
            v_opacities[g, n] = slots[first, g * MOMENTS + 11] / opacities[n]
            v_x, v_y, v_w = _ray_transform_gradient(slots, first, g * MOMENTS, rows)
            for i in range(3):
                a, b, c = to_pixels[0, i], to_pixels[1, i], to_pixels[2, i]
                v_tangents[g, n, i, 0] = a * v_x[0] + b * v_y[0] + c * v_w[0]
                v_tangents[g, n, i, 1] = a * v_x[1] + b * v_y[1] + c * v_w[1]
                v_means[g, n, i] = a * v_x[2] + b * v_y[2] + c * v_w[2]


@device_function
def _ray_transform_gradient(slots, slot, at, rows):
    """Gradients of the rows of M from a slot's moments: through c = A (dx, dy, 1) and through the centre."""
    x, y, w = rows
    inverse = ONE / _signed_dot(w, w, ONE)
    centre = _signed_dot(x, w, ONE) * inverse, _signed_dot(y, w, ONE) * inverse
    x, y = _plus(x, -centre[0], w), _plus(y, -centre[1], w)
    # The columns of A = [y x w, w x x, x x y]; sigma's gradient is (u, v, -(u^2 + v^2)) / c_z, and alpha falls with sigma.
    a = -slots[slot, at], -slots[slot, at + 3], slots[slot, at + 6]
    b = -slots[slot, at + 1], -slots[slot, at + 4], slots[slot, at + 7]
    c = -slots[slot, at + 2], -slots[slot, at + 5], slots[slot, at + 8]
    v_x = _plus(_cross(b, w), ONE, _cross(y, c))
    v_y = _plus(_cross(w, a), ONE, _cross(c, x))
    v_w = _plus(_cross(a, y), ONE, _cross(x, b))
    v_w = _plus(_plus(v_w, -centre[0], v_x), -centre[1], v_y)
    # centre = <x, w> / <w, w> with the signs (1, 1, -1), x and w before the shift
    v_c, v_d = slots[slot, at + 9] * inverse, slots[slot, at + 10] * inverse
    x, y, w = _signed(x), _signed(y), _signed(w)
    v_w = _plus(_plus(v_w, v_c, x), v_d, y)
    v_w = _plus(v_w, -v_c * centre[0] - v_d * centre[1], w)
    return _plus(v_x, v_c, w), _plus(v_y, v_d, w), v_w
