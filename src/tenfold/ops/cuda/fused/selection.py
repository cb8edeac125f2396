"""The kernels that choose and rank tokens: see ``sampling``, which launches them.

Programs of a row read what they need of it again; it is still in the L2 cache. "Far" is how far a logit is below the
row's largest, as the difference of the integers that are ordered as floats are: exact, equal for equals, unsigned.
"""

import triton
import triton.language as tl

LEVELS = tl.constexpr(16)  # distances from the largest logit, over temperature: see _level
_FARTHEST = tl.constexpr(15)


@triton.jit(do_not_specialize=["count", "parts"])
def survey(
    tokens, tops, logits, stride, vocab, filters, count, counts, masses, parts, SLICE: tl.constexpr, BLOCK: tl.constexpr
):
    """``counts`` and ``masses`` [R, parts, LEVELS]: how many logits of a slice, of what mass, lie within each level.

    Rows whose tokens stand by index have but one mass, in the place of the farthest: of what min-p leaves.
    """
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    inverse, top_k, top_p, min_p, _ = _filters(filters, row, count)
    if (tl.load(tokens + row) < 0) | (inverse == 0):
        return
    level = tl.arange(0, LEVELS)
    limit = _level(level)
    out = (row * parts + part) * LEVELS + level
    top = tl.load(tops + row)
    ranked = _ranked(top_k, top_p, vocab)
    number = tl.zeros([LEVELS], tl.int32)
    mass = tl.zeros([LEVELS], tl.float32)
    for start in range(0, SLICE, BLOCK):
        at = part * SLICE + start + tl.arange(0, BLOCK)
        value = tl.load(logits + row * stride + at, mask=at < vocab, other=float("-inf"))
        distance = (top - value) * inverse
        weight = tl.exp(-distance)
        if ranked:
            within = distance[:, None] <= limit[None, :]
            number += tl.sum(within.to(tl.int32), axis=0)
            mass += tl.sum(tl.where(within, weight[:, None], 0.0), axis=0)
        else:
            mass += tl.sum(tl.where(weight >= min_p, weight, 0.0), axis=0)
    tl.store(counts + out, number)
    tl.store(masses + out, mass)


@triton.jit(do_not_specialize=["count", "parts"])
def collect(
    tokens,
    tops,
    logits,
    stride,
    vocab,
    filters,
    count,
    counts,
    masses,
    values,
    ids,
    parts,
    PARTS: tl.constexpr,
    SLICE: tl.constexpr,
    ROOM: tl.constexpr,
):
    """Rows that stand by index: draw. Others: ``values`` and ``ids`` [R, ROOM] of a level, by index, if they fit."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    inverse, top_k, top_p, min_p, drawn = _filters(filters, row, count)
    if (tl.load(tokens + row) < 0) | (inverse == 0):
        return
    top = tl.load(tops + row)
    at = part * SLICE + tl.arange(0, SLICE)
    value = tl.load(logits + row * stride + at, mask=at < vocab, other=float("-inf"))
    distance = (top - value) * inverse
    slices = tl.arange(0, PARTS)
    if _ranked(top_k, top_p, vocab):
        level, found, _ = _narrowed(counts, masses, row, top_k, top_p, vocab, parts, PARTS)
        if found <= ROOM:
            own = tl.load(counts + (row * parts + slices) * LEVELS + level, mask=slices < part, other=0)
            kept = distance <= _level(level)
            place = row * ROOM + tl.sum(own, axis=0) + tl.cumsum(kept.to(tl.int32), axis=0) - 1
            tl.store(values + place, value, mask=kept)
            tl.store(ids + place, at, mask=kept)
    else:
        sums = tl.load(masses + (row * parts + slices) * LEVELS + _FARTHEST, mask=slices < parts, other=0.0)
        sums = sums.to(tl.float64)
        target = drawn * tl.sum(sums, axis=0)
        last = tl.max(tl.where(sums > 0, slices, 0), axis=0)
        if part == tl.min(tl.where((tl.cumsum(sums, axis=0) > target) & (sums > 0), slices, last), axis=0):
            rest = (target - tl.sum(tl.where(slices < part, sums, 0.0), axis=0)).to(tl.float32)
            weight = tl.exp(-distance)
            weight = tl.where(weight >= min_p, weight, 0.0)
            last = tl.max(tl.where(weight > 0, at, -1), axis=0)
            token = tl.min(tl.where((tl.cumsum(weight, axis=0) > rest) & (weight > 0), at, last), axis=0)
            tl.store(tokens + row, token)


@triton.jit(do_not_specialize=["parts"])
def settle(
    tokens,
    tops,
    logits,
    stride,
    vocab,
    filters,
    counts,
    masses,
    values,
    ids,
    parts,
    PARTS: tl.constexpr,
    ROOM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Draw for the rows that stand by logit. A cut is (far, number): all that are nearer, and of equals so many."""
    row = tl.program_id(0).to(tl.int64)
    inverse, top_k, top_p, min_p, drawn = _filters(filters, row, 0)
    if (tl.load(tokens + row) < 0) | (inverse == 0) | (_ranked(top_k, top_p, vocab) == 0):
        return
    top = tl.load(tops + row)
    _, n, mass = _narrowed(counts, masses, row, top_k, top_p, vocab, parts, PARTS)
    source, n, whole = _source(logits + row * stride, vocab, values + row * ROOM, n, n > ROOM)

    cut, most, near = _extent(source, n, top, inverse, min_p, BLOCK)
    number = tl.zeros([], tl.float64) + vocab
    if _limited(top_k, vocab):
        target = tl.minimum(top_k, n.to(tl.float64))
        cut = _search(source, n, top, inverse, target, most, True, False, BLOCK)
        before, above, equals, heavy = _around(source, n, top, inverse, cut, BLOCK)
        number = target - before
        mass = above + number * heavy
    if top_p < 1:
        target = top_p * mass
        far = _search(source, n, top, inverse, target, most, False, False, BLOCK)
        before, above, equals, heavy = _around(source, n, top, inverse, far, BLOCK)
        needed = tl.minimum(tl.maximum(tl.ceil((target - above) / heavy), 1.0), equals)
        if (far < cut) | ((far == cut) & (needed < number)):
            cut, number = far, needed
            mass = above + needed * heavy
    if near < cut:
        before, above, equals, heavy = _around(source, n, top, inverse, near, BLOCK)
        cut, number = near, equals
        mass = above + equals * heavy
    target = drawn * mass
    far = _search(source, n, top, inverse, target, most, False, True, BLOCK)
    before, above, equals, heavy = _around(source, n, top, inverse, far, BLOCK)
    index = tl.maximum(tl.floor((target - above) / heavy), 0.0)
    if far > cut:
        far, index = cut, number
    if far == cut:
        index = tl.minimum(index, tl.maximum(number - 1, 0.0))
    place = _place(source, n, top, inverse, far, index, BLOCK)
    tl.store(tokens + row, place if whole else tl.load(ids + row * ROOM + place))


@triton.jit(do_not_specialize=["count", "parts"])
def rank(
    tokens,
    tops,
    logits,
    stride,
    vocab,
    log_sums,
    best,
    best_values,
    count,
    counts,
    masses,
    values,
    ids,
    parts,
    PARTS: tl.constexpr,
    ROOM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``log_sums`` [R], ``best`` and ``best_values`` [R, count]: one after the other, each the least that is left."""
    row = tl.program_id(0).to(tl.int64)
    if tl.load(tokens + row) < 0:
        tl.store(tops + row, 0.0)
        tl.store(log_sums + row, 0.0)
        i = 0
        while i < count:
            tl.store(best + row * count + i, -1)
            tl.store(best_values + row * count + i, 0.0)
            i += 1
        return
    top = tl.load(tops + row)
    wanted = tl.zeros([], tl.float64) + count
    _, n, mass = _narrowed(counts, masses, row, wanted, 1.0, vocab, parts, PARTS)
    tl.store(log_sums + row, tl.log(mass.to(tl.float32)))
    source, n, whole = _source(logits + row * stride, vocab, values + row * ROOM, n, (n > ROOM) | (n < count))
    given = tl.full([], -1, tl.int64)
    i = 0
    while i < count:
        nearest = tl.full([], 0x7FFFFFFFFFFFFFFF, tl.int64)
        start = 0
        while start < n:
            inside, far, _weight = _block(source, start, n, top, 1.0, BLOCK)
            key = (far.to(tl.int64) << 31) | (start + tl.arange(0, BLOCK))
            left = tl.where(inside & (key > given), key, 0x7FFFFFFFFFFFFFFF)
            nearest = tl.minimum(nearest, tl.min(left, axis=0))
            start += BLOCK
        given = nearest
        place = (given & 0x7FFFFFFF).to(tl.int32)
        tl.store(best + row * count + i, place if whole else tl.load(ids + row * ROOM + place))
        tl.store(best_values + row * count + i, tl.load(source + place))
        i += 1


@triton.jit
def _filters(filters, row, count):
    """(1 / temperature or 0 where that is 0, top-k, top-p, min-p, drawn number) of a row; or to rank ``count``."""
    zero = tl.zeros([], tl.float64)
    if filters is None:
        inverse = tl.full([], 1.0, tl.float32)
        top_k, top_p, min_p, drawn = zero + count, zero + 1, tl.zeros([], tl.float32), zero
    else:
        own = filters + row * 5
        temperature = tl.load(own).to(tl.float32)
        inverse = tl.where(temperature == 0, 0.0, 1.0 / tl.maximum(temperature, 1e-30))
        top_k, top_p, drawn = zero + tl.load(own + 1), zero + tl.load(own + 2), zero + tl.load(own + 4)
        min_p = tl.load(own + 3).to(tl.float32)
    return inverse, top_k, top_p, min_p, drawn


@triton.jit
def _limited(top_k, vocab):
    return (top_k > 0) & (top_k < vocab)


@triton.jit
def _ranked(top_k, top_p, vocab):
    """Whether the row's tokens stand by logit."""
    return _limited(top_k, vocab) | (top_p < 1)


@triton.jit
def _level(level):
    """1/4, 3/8, 1/2, 3/4, 1 … 32, 48: the mass beyond the last is nothing (e^-48 for each token)."""
    return ((2 + (level & 1)) << (level >> 1)).to(tl.float32) * 0.125


@triton.jit
def _narrowed(counts, masses, row, top_k, top_p, vocab, parts, PARTS: tl.constexpr):
    """(the first level that holds the top-k tokens or the top-p mass, its number of tokens, the mass of all)."""
    level = tl.arange(0, LEVELS)
    part = tl.arange(0, PARTS)[:, None]
    at = (row * parts + part) * LEVELS + level[None, :]
    number = tl.sum(tl.load(counts + at, mask=part < parts, other=0), axis=0)
    mass = tl.sum(tl.load(masses + at, mask=part < parts, other=0.0).to(tl.float64), axis=0)
    total = tl.max(mass, axis=0)
    # What the rounding of sums may take is added.
    enough = number >= top_k if _limited(top_k, vocab) else mass >= top_p * total * (1 + 4e-6)
    first = tl.min(tl.where(enough, level, _FARTHEST), axis=0)
    return first, tl.sum(tl.where(level == first, number, 0), axis=0), total


@triton.jit
def _source(row, vocab, values, n, whole):
    """Where to look, how many there are, and whether it is the whole row."""
    source = values
    if whole:
        source = row
        n = tl.zeros([], tl.int32) + vocab
    return source, n, whole


@triton.jit
def _ordered(value):
    """int32 in the order of floats; zeros of both signs are equal."""
    bits = tl.where(value == 0, 0.0, value).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _block(source, start, n, top, inverse, BLOCK: tl.constexpr):
    """(whether there are such, how far they are, their weights relative to the top's)."""
    at = tl.multiple_of(start, BLOCK) + tl.arange(0, BLOCK)
    value = tl.load(source + at, mask=at < n, other=float("-inf"))
    far = (_ordered(top) - _ordered(value)).to(tl.uint32, bitcast=True)
    return at < n, far, tl.exp((value - top) * inverse)


@triton.jit
def _extent(source, n, top, inverse, min_p, BLOCK: tl.constexpr):
    """How far the farthest is, twice, and the farthest of any weight that min-p leaves."""
    most = tl.full([], 0, tl.uint32)
    near = tl.full([], 0, tl.uint32)
    start = 0
    while start < n:
        inside, far, weight = _block(source, start, n, top, inverse, BLOCK)
        most = tl.maximum(most, tl.max(tl.where(inside, far, 0), axis=0))
        near = tl.maximum(near, tl.max(tl.where((weight >= min_p) & (weight > 0), far, 0), axis=0))
        start += BLOCK
    return most, most, near


@triton.jit
def _search(source, n, top, inverse, target, most, COUNT: tl.constexpr, MORE: tl.constexpr, BLOCK: tl.constexpr):
    """The least ``far`` up to which there are ``target`` tokens (COUNT) or there is that mass; or MORE than that."""
    result = tl.full([], 0, tl.uint32)
    digit = tl.arange(0, 16).to(tl.uint32)
    shift = tl.full([], 32, tl.uint32)
    for _ in range(8):
        shift -= 4
        if (most >> shift) != 0:
            limit = result + (digit << shift)
            sums = tl.zeros([16], tl.float64)
            start = 0
            while start < n:
                inside, far, weight = _block(source, start, n, top, inverse, BLOCK)
                each = inside.to(tl.float32) if COUNT else weight
                sums += tl.sum(tl.where(far[:, None] < limit[None, :], each[:, None], 0.0), axis=0).to(tl.float64)
                start += BLOCK
            short = sums <= target if MORE else sums < target
            result += tl.max(tl.where(short, digit, 0), axis=0) << shift
    return result


@triton.jit
def _around(source, n, top, inverse, cut, BLOCK: tl.constexpr):
    """(how many are nearer than ``cut``, their mass, how many are as far, the weight of each of these)."""
    before = tl.zeros([], tl.float64)
    above = tl.zeros([], tl.float64)
    equals = tl.zeros([], tl.float64)
    heavy = tl.full([], 1e-30, tl.float32)
    start = 0
    while start < n:
        inside, far, weight = _block(source, start, n, top, inverse, BLOCK)
        before += tl.sum((inside & (far < cut)).to(tl.int32), axis=0)
        above += tl.sum(tl.where(far < cut, weight, 0.0), axis=0)
        equal = inside & (far == cut)
        equals += tl.sum(equal.to(tl.int32), axis=0)
        heavy = tl.maximum(heavy, tl.max(tl.where(equal, weight, 0.0), axis=0))
        start += BLOCK
    return before, above, equals, heavy.to(tl.float64)


@triton.jit
def _place(source, n, top, inverse, cut, index, BLOCK: tl.constexpr):
    """Where the ``index``-th of those as far as ``cut`` is, or the last of them."""
    place = tl.full([], -1, tl.int32)
    seen = tl.full([], 0, tl.int32)
    start = 0
    while start < n:
        inside, far, _weight = _block(source, start, n, top, inverse, BLOCK)
        at = start + tl.arange(0, BLOCK)
        equal = (inside & (far == cut)).to(tl.int32)
        order = seen + tl.cumsum(equal, axis=0)
        place = tl.maximum(place, tl.max(tl.where((equal > 0) & (order <= index + 1), at, -1), axis=0))
        seen += tl.sum(equal, axis=0)
        start += BLOCK
    return place
