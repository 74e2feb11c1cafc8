# pyright: standard
"""What the CPU executor does per pixel, as numba kernels: binning, compositing forward, hand-written backward.

The image is cut into tiles, dealt to the cores. In a tile the surfels come front to back, and each visits the pixels of
its own box, eight at a time. What a tile computes depends on no other: any number of threads gives the same bits.
"""

from __future__ import annotations

import numba
import numpy as np

from fmgs_nerfstudio.kernels.compiled import device_function, kernel
from fmgs_nerfstudio.kernels.simd import (
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
from fmgs_nerfstudio.rendering import projection as definition
from fmgs_nerfstudio.rendering.cpu_geometry import MOMENTS, RECORD

TILE = 16
STRIDE = TILE + LANES  # eight lanes may start at any pixel of a row
PLANE = TILE * STRIDE
RUN = TILE * (TILE // LANES) * LANES  # floats of all runs of eight pixels that a surfel can have in a tile
AHEAD = 4  # surfels to ask the memory for in advance

ZERO, HALF, ONE, TWO = (np.float32(x) for x in (0.0, 0.5, 1.0, 2.0))
ALPHA_MAX, ALPHA_MIN, T_MIN = (np.float32(x) for x in (definition.ALPHA_MAX, definition.ALPHA_MIN, definition.T_MIN))


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


@device_function
def _average(image, scratch, left, top, width, height, factor):
    """Add a tile to the image whose pixels are means of `factor` x `factor` of the tile's."""
    share = ONE / np.float32(factor * factor)
    for channel in range(image.shape[0]):
        for y in range(min(TILE, height - top)):
            at = (1 + channel) * PLANE + y * STRIDE
            row = image[channel, (top + y) // factor]
            for x in range(min(TILE, width - left)):
                row[(left + x) // factor] += share * scratch[at + x]


@kernel
def composite(sizes, tiles, starts, surfels, records, values, image, planes):
    """Add sum_i w_i values_i [N, C] of the listed tiles to the image [C, H, W], whose pixels are means of `factor` x
    `factor` composited ones; and keep the composited ones in `planes` [tiles, C * PLANE], if it has room for them.

    `sizes` are tiles_x, factor and workers. The factor divides TILE, so that a pixel's samples are all in one tile.
    """
    tiles_x, factor, workers = sizes
    channels, height, width = image.shape[0], image.shape[1] * factor, image.shape[2] * factor
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
            _average(image, scratch, left, top, width, height, factor)
            if k < len(planes):
                planes[k] = scratch[PLANE:]


@kernel
def composite_backward(
    sizes, tiles, starts, surfels, first_slot, records, values, groups, planes, cotangent, slots, touched
):
    """Sums over the pixels of every (surfel, tile) pair, in its slot: MOMENTS per geometry, then the values' gradient.

    Channels groups[g] to groups[g + 1] belong to geometry g; those behind the last group reach no geometry.
    `sizes` and `planes` as in `composite`.
    """
    tiles_x, factor, workers = sizes
    channels, height, width = cotangent.shape[0], cotangent.shape[1] * factor, cotangent.shape[2] * factor
    n_groups = groups.size - 1
    padded = -(-channels // LANES) * LANES
    flat_records, flat_values, flat_slots = records.reshape(-1), values.reshape(-1), slots.reshape(-1)
    for worker in numba.prange(workers):
        # Planes of pixels: T; the cotangent's channels; of each group, the part R of <cotangent, image> still ahead
        scratch = np.zeros((1 + padded + n_groups) * PLANE, np.float32)
        runs = np.empty((7 + n_groups) * RUN, np.float32)
        run_at = np.empty(RUN // LANES, np.int64)
        run_x, run_y = np.empty(RUN // LANES, np.float32), np.empty(RUN // LANES, np.float32)
        for k in range(worker, tiles.size, workers):
            tile = tiles[k]
            left, top = tile % tiles_x * TILE, tile // tiles_x * TILE
            _start_tile(scratch, left, top, width, height)
            _load_cotangent(scratch, groups, planes[k], cotangent, factor, left, top, padded)
            for entry in range(starts[tile], starts[tile + 1]):
                n = surfels[entry]
                ahead = surfels[min(entry + AHEAD, surfels.size - 1)]
                prefetch(flat_records, ahead * RECORD)
                prefetch(flat_values, ahead * channels)
                n_runs = _visit(n, records, values, groups, left, top, padded, scratch, runs, run_at, run_x, run_y)
                if n_runs > 0:
                    x0, y0, x1, _ = _tiles(records, n)
                    slot = first_slot[n] + (tile // tiles_x - y0) * (x1 - x0) + tile % tiles_x - x0
                    touched[slot] = True
                    _sum_runs(
                        flat_slots, slot, slots.shape[1], scratch, runs, run_at, run_x, run_y, n_runs, n_groups, padded
                    )


@device_function
def _load_cotangent(scratch, groups, plane, cotangent, factor, left, top, padded):
    """The cotangent of a tile's pixels, each `factor` x `factor` alike, and each group's <cotangent, image>."""
    channels, height, width = cotangent.shape[0], cotangent.shape[1] * factor, cotangent.shape[2] * factor
    share = ONE / np.float32(factor * factor)
    scratch[(1 + padded) * PLANE :] = ZERO
    group = 0
    for channel in range(channels):
        while group < groups.size and groups[group] <= channel:
            group += 1
        for y in range(min(TILE, height - top)):
            row = cotangent[channel, (top + y) // factor]
            at = (1 + channel) * PLANE + y * STRIDE
            for x in range(min(TILE, width - left)):
                scratch[at + x] = share * row[(left + x) // factor]
            if group < groups.size:
                at_R, at_pixel = (padded + group) * PLANE + y * STRIDE, channel * PLANE + y * STRIDE
                for x in range(min(TILE, width - left)):
                    scratch[at_R + x] += scratch[at + x] * plane[at_pixel + x]


@device_function
def _product(weight, x):
    """weight * x, and 0 where the weight is: x may be NaN at a pixel that does not show the surfel."""
    return where(weight > ZERO, weight * x, ZERO)


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
            over = ONE / (ONE - alpha)
            for g in range(n_groups):
                product = splat(ZERO)
                for channel in range(groups[g], groups[g + 1]):
                    product += load(scratch, at + (1 + channel) * PLANE) * values[n, channel]
                at_R = at + (1 + padded + g) * PLANE
                R = load(scratch, at_R) - _product(weight, product)
                store(scratch, at_R, R)
                store(runs, run + (7 + g) * RUN, where(shows, T * product - R * over, ZERO))
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
            a += _product(weight, load(scratch, at))
            b += _product(weight, load(scratch, at + PLANE))
            c += _product(weight, load(scratch, at + 2 * PLANE))
            d += _product(weight, load(scratch, at + 3 * PLANE))
            e += _product(weight, load(scratch, at + 4 * PLANE))
            f += _product(weight, load(scratch, at + 5 * PLANE))
            g_ += _product(weight, load(scratch, at + 6 * PLANE))
            h += _product(weight, load(scratch, at + 7 * PLANE))
        store(flat_slots, out + channel, lane_sums(a, b, c, d, e, f, g_, h))
