// Sixteen lanes of two 16-bit words, or four bytes: weights in whole numbers. For levels with a tile unit; the emulated
// one is compiled for AVX2. Included inside a level's namespace by simd.hpp.
#if defined(TENFOLD_AVX512)

using Words = __m512i;
// The low 16 bits of each lane, in both of its words.
inline Words spread(IVec x) {
  const __m128i twice = _mm_setr_epi8(0, 1, 0, 1, 4, 5, 4, 5, 8, 9, 8, 9, 12, 13, 12, 13);
  return _mm512_shuffle_epi8(x, _mm512_broadcast_i32x4(twice));
}
inline Words low_product(Words a, Words b) { return _mm512_mullo_epi16(a, b); }
inline Words round_high(Words a, Words b) { return _mm512_mulhrs_epi16(a, b); }  // (a b + 2^14) / 2^15, signed
inline Words add_words(Words a, Words b) { return _mm512_add_epi16(a, b); }
// Bytes 0 and 2 of each lane from `even`, 1 and 3 from `odd`: the high bytes of their words, or the low ones.
inline Bytes high_bytes(Words even, Words odd) {
  return _mm512_ternarylogic_epi32(_mm512_srli_epi16(even, 8), odd, _mm512_set1_epi16(static_cast<int16_t>(0xff00)), 0xf8);
}
inline Bytes low_bytes(Words even, Words odd) {
  return _mm512_ternarylogic_epi32(_mm512_slli_epi16(odd, 8), even, _mm512_set1_epi16(0x00ff), 0xf8);
}
inline Words even_bytes(Bytes x) { return _mm512_and_si512(x, _mm512_set1_epi16(0x00ff)); }
inline Words odd_bytes(Bytes x) { return _mm512_srli_epi16(x, 8); }
inline Words upper_bytes(Bytes x) { return _mm512_and_si512(x, _mm512_set1_epi16(static_cast<int16_t>(0xff00))); }
template <int LEFT>
inline Words shift_words(Words x) {
  return LEFT == 0 ? x : _mm512_slli_epi16(x, LEFT);
}
inline Bytes subtract_bytes(Bytes x, int y) { return _mm512_sub_epi8(x, _mm512_set1_epi8(static_cast<int8_t>(y))); }
// Of a group's packed codes of four bits, those of runs 2i and 2i + 1 as words.
inline void nibble_words(const uint8_t* group, int i, Words* first, Words* second) {
  const Bytes x = load_bytes(group + 64 * i);
  const Words four = _mm512_set1_epi16(15);
  first[0] = _mm512_and_si512(x, four);
  first[1] = _mm512_and_si512(_mm512_srli_epi16(x, 8), four);
  second[0] = _mm512_and_si512(_mm512_srli_epi16(x, 4), four);
  second[1] = _mm512_srli_epi16(x, 12);
}
// Of BITS bits, a byte each.
template <int BITS>
inline void code_bytes(const uint8_t* group, int i, Bytes& first, Bytes& second) {
  unpack_runs<BITS>(group, i, first, second);
}
inline IVec dot_bytes(IVec sum, Bytes a, const int8_t* quad) { return dot_quad(sum, a, quad); }
// 64 numbers, rounded, as 256 high + low, each a signed byte; the sums take what was stored.
inline void store_digits(int8_t* high, int8_t* low, const Vec* x, IVec& high_sum, IVec& low_sum) {
  // Packing takes turns between four parts of each register; this puts them in order.
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i a = _mm512_packs_epi32(to_int(x[0]), to_int(x[1])), b = _mm512_packs_epi32(to_int(x[2]), to_int(x[3]));
  const auto upper = [](__m512i v) { return _mm512_srai_epi16(_mm512_add_epi16(v, _mm512_set1_epi16(128)), 8); };
  const auto lower = [](__m512i v) { return _mm512_and_si512(v, _mm512_set1_epi16(0x00ff)); };  // the same as a signed byte
  const __m512i h = _mm512_permutexvar_epi32(order, _mm512_packs_epi16(upper(a), upper(b)));
  const __m512i l = _mm512_permutexvar_epi32(order, _mm512_packus_epi16(lower(a), lower(b)));
  _mm512_storeu_si512(high, h);
  _mm512_storeu_si512(low, l);
  high_sum = dot_quads(high_sum, _mm512_set1_epi8(1), h);
  low_sum = dot_quads(low_sum, _mm512_set1_epi8(1), l);
}

// Of 16-byte parts: part i of the first holds the i-th of four words in all its places.
inline Words four_words(const uint8_t* p) {
  int64_t words;
  __builtin_memcpy(&words, p, sizeof words);
  const __m512i which = _mm512_setr_epi64(0x0100010001000100, 0x0100010001000100, 0x0302030203020302, 0x0302030203020302,
                                          0x0504050405040504, 0x0504050405040504, 0x0706070607060706, 0x0706070607060706);
  return _mm512_shuffle_epi8(_mm512_set1_epi64(words), which);
}
inline Bytes same_parts(const void* p) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
// Of each part the high bytes of a's words, then of b's.
inline Bytes join_high(Words a, Words b) {
  return _mm512_packus_epi16(_mm512_srli_epi16(a, 8), _mm512_srli_epi16(b, 8));
}
inline Bytes low_nibbles(Bytes x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
inline Bytes high_nibbles(Bytes x) { return low_nibbles(_mm512_srli_epi16(x, 4)); }
// Of each part, bytes 0 ... 15 of the table; from the second table where the bit in `second` is set.
inline Bytes look_up(Bytes table, Bytes index) { return _mm512_shuffle_epi8(table, index); }
inline Bytes look_up(Bytes table, Bytes other, Bytes index, const uint8_t* second) {
  uint64_t mask;
  __builtin_memcpy(&mask, second, sizeof mask);
  return _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(table, index), mask, other, index);
}
// Quad q of part i of x[j] becomes quad j of part i of x[q].
inline void transpose_quads(Bytes* x) {
  const __m512i a = _mm512_unpacklo_epi32(x[0], x[1]), b = _mm512_unpackhi_epi32(x[0], x[1]);
  const __m512i c = _mm512_unpacklo_epi32(x[2], x[3]), d = _mm512_unpackhi_epi32(x[2], x[3]);
  x[0] = _mm512_unpacklo_epi64(a, c);
  x[1] = _mm512_unpackhi_epi64(a, c);
  x[2] = _mm512_unpacklo_epi64(b, d);
  x[3] = _mm512_unpackhi_epi64(b, d);
}
// Lane 4i + j: the sum of the four lanes of part i of x[j].
inline IVec sum_parts(const IVec* x) {
  const __m512i a = iadd(_mm512_unpacklo_epi32(x[0], x[1]), _mm512_unpackhi_epi32(x[0], x[1]));
  const __m512i b = iadd(_mm512_unpacklo_epi32(x[2], x[3]), _mm512_unpackhi_epi32(x[2], x[3]));
  return iadd(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}
// sum + products of four unsigned bytes of a with four signed ones of b, exactly.
inline IVec dot_parts(IVec sum, Bytes a, Bytes b) { return dot_quads(sum, a, b); }

#else

using Words = Bytes;
template <typename F>
inline Words halves(Bytes x, Bytes y, const F& f) {
  return {f(x.a, y.a), f(x.b, y.b)};
}
inline Words spread(IVec x) {
  const __m256i twice = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 0, 1, 4, 5, 4, 5, 8, 9, 8, 9, 12, 13, 12, 13));
  return {_mm256_shuffle_epi8(x.a, twice), _mm256_shuffle_epi8(x.b, twice)};
}
inline Words low_product(Words a, Words b) {
  return halves(a, b, [](__m256i x, __m256i y) { return _mm256_mullo_epi16(x, y); });
}
inline Words round_high(Words a, Words b) {
  return halves(a, b, [](__m256i x, __m256i y) { return _mm256_mulhrs_epi16(x, y); });
}
inline Words add_words(Words a, Words b) {
  return halves(a, b, [](__m256i x, __m256i y) { return _mm256_add_epi16(x, y); });
}
inline Words even_bytes(Bytes x) {
  return halves(x, x, [](__m256i v, __m256i) { return _mm256_and_si256(v, _mm256_set1_epi16(0x00ff)); });
}
inline Words odd_bytes(Bytes x) {
  return halves(x, x, [](__m256i v, __m256i) { return _mm256_srli_epi16(v, 8); });
}
inline Words upper_bytes(Bytes x) {
  return halves(x, x, [](__m256i v, __m256i) { return _mm256_and_si256(v, _mm256_set1_epi16(static_cast<int16_t>(0xff00))); });
}
template <int LEFT>
inline Words shift_words(Words x) {
  return halves(x, x, [](__m256i v, __m256i) { return _mm256_slli_epi16(v, LEFT); });
}
inline Bytes high_bytes(Words even, Words odd) {
  return halves(odd_bytes(even), upper_bytes(odd), [](__m256i e, __m256i o) { return _mm256_or_si256(e, o); });
}
inline Bytes low_bytes(Words even, Words odd) {
  return halves(even_bytes(even), shift_words<8>(odd), [](__m256i e, __m256i o) { return _mm256_or_si256(e, o); });
}
inline Bytes subtract_bytes(Bytes x, int y) {
  return halves(x, x, [&](__m256i v, __m256i) { return _mm256_sub_epi8(v, _mm256_set1_epi8(static_cast<int8_t>(y))); });
}
inline void nibble_words(const uint8_t* group, int i, Words* first, Words* second) {
  const Bytes low = {_mm256_set1_epi8(15), _mm256_set1_epi8(15)}, x = load_bytes(group + 64 * i);
  const auto both = [](__m256i v, __m256i y) { return _mm256_and_si256(v, y); };
  const auto upper = [](__m256i v, __m256i y) { return _mm256_and_si256(_mm256_srli_epi16(v, 4), y); };
  const Bytes a = halves(x, low, both), b = halves(x, low, upper);
  first[0] = even_bytes(a);
  first[1] = odd_bytes(a);
  second[0] = even_bytes(b);
  second[1] = odd_bytes(b);
}
template <int BITS>
inline void code_bytes(const uint8_t* group, int i, Bytes& first, Bytes& second) {
  first = unpack_run<BITS>(group, 2 * i);
  second = unpack_run<BITS>(group, 2 * i + 1);
}
// sum + products of four unsigned bytes of a with four signed ones, the same for all lanes, exactly.
inline IVec dot_bytes(IVec sum, Bytes a, const int8_t* quad) {
  const auto pair = [&](int i) {
    return _mm256_set1_epi32(static_cast<int32_t>(static_cast<uint16_t>(quad[i]) | static_cast<uint32_t>(static_cast<uint16_t>(quad[i + 2])) << 16));
  };
  const __m256i even = pair(0), odd = pair(1);
  const Words e = even_bytes(a), o = odd_bytes(a);
  const auto add = [&](__m256i s, __m256i x, __m256i y) {
    return _mm256_add_epi32(s, _mm256_add_epi32(_mm256_madd_epi16(x, even), _mm256_madd_epi16(y, odd)));
  };
  return {add(sum.a, e.a, o.a), add(sum.b, e.b, o.b)};
}
inline void store_digits(int8_t* high, int8_t* low, const Vec* x, IVec& high_sum, IVec& low_sum) {
  const auto half = [&](__m256 part, int at, __m256i& high_part, __m256i& low_part) {
    const __m256i v = _mm256_cvtps_epi32(part), h = _mm256_srai_epi32(_mm256_add_epi32(v, _mm256_set1_epi32(128)), 8);
    const __m256i l = _mm256_sub_epi32(v, _mm256_slli_epi32(h, 8));
    alignas(32) int32_t of_high[8], of_low[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(of_high), h);
    _mm256_store_si256(reinterpret_cast<__m256i*>(of_low), l);
    for (int i = 0; i < 8; ++i) {
      high[at + i] = static_cast<int8_t>(of_high[i]);
      low[at + i] = static_cast<int8_t>(of_low[i]);
    }
    high_part = _mm256_add_epi32(high_part, h);
    low_part = _mm256_add_epi32(low_part, l);
  };
  for (int i = 0; i < 4; ++i) {
    half(x[i].a, 16 * i, high_sum.a, low_sum.a);
    half(x[i].b, 16 * i + 8, high_sum.b, low_sum.b);
  }
}

inline Words four_words(const uint8_t* p) {
  int64_t words;
  __builtin_memcpy(&words, p, sizeof words);
  const auto both = [&](int64_t first, int64_t second) {
    return _mm256_shuffle_epi8(_mm256_set1_epi64x(words), _mm256_setr_epi64x(first, first, second, second));
  };
  return {both(0x0100010001000100, 0x0302030203020302), both(0x0504050405040504, 0x0706070607060706)};
}
inline Bytes same_parts(const void* p) {
  const __m256i x = _mm256_broadcastsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  return {x, x};
}
inline Bytes join_high(Words a, Words b) {
  return halves(a, b, [](__m256i x, __m256i y) {
    return _mm256_packus_epi16(_mm256_srli_epi16(x, 8), _mm256_srli_epi16(y, 8));
  });
}
inline Bytes low_nibbles(Bytes x) {
  return halves(x, x, [](__m256i v, __m256i) { return _mm256_and_si256(v, _mm256_set1_epi8(15)); });
}
inline Bytes look_up(Bytes table, Bytes index) {
  return halves(table, index, [](__m256i t, __m256i i) { return _mm256_shuffle_epi8(t, i); });
}
inline Bytes look_up(Bytes table, Bytes other, Bytes index, const uint8_t* second) {
  alignas(32) uint8_t which[64];
  for (int i = 0; i < 64; ++i) which[i] = second[i / 8] >> i % 8 & 1 ? 0xff : 0;
  const Bytes a = look_up(table, index), b = look_up(other, index), mask = load_bytes(which);
  return {_mm256_blendv_epi8(a.a, b.a, mask.a), _mm256_blendv_epi8(a.b, b.b, mask.b)};
}
inline void transpose_quads(Bytes* x) {
  const auto low = [](__m256i u, __m256i v) { return _mm256_unpacklo_epi32(u, v); };
  const auto high = [](__m256i u, __m256i v) { return _mm256_unpackhi_epi32(u, v); };
  const auto low_two = [](__m256i u, __m256i v) { return _mm256_unpacklo_epi64(u, v); };
  const auto high_two = [](__m256i u, __m256i v) { return _mm256_unpackhi_epi64(u, v); };
  const Bytes a = halves(x[0], x[1], low), b = halves(x[0], x[1], high);
  const Bytes c = halves(x[2], x[3], low), d = halves(x[2], x[3], high);
  x[0] = halves(a, c, low_two);
  x[1] = halves(a, c, high_two);
  x[2] = halves(b, d, low_two);
  x[3] = halves(b, d, high_two);
}
inline IVec sum_parts(const IVec* x) {
  Bytes parts[4];
  for (int j = 0; j < 4; ++j) parts[j] = {x[j].a, x[j].b};
  transpose_quads(parts);
  IVec sum = {parts[0].a, parts[0].b};
  for (int j = 1; j < 4; ++j) sum = iadd(sum, IVec{parts[j].a, parts[j].b});
  return sum;
}
inline IVec dot_parts(IVec sum, Bytes a, Bytes b) {
  const auto add = [](__m256i s, __m256i x, __m256i y) {
    const __m256i even = _mm256_madd_epi16(_mm256_and_si256(x, _mm256_set1_epi16(0x00ff)), _mm256_srai_epi16(_mm256_slli_epi16(y, 8), 8));
    const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(x, 8), _mm256_srai_epi16(y, 8));
    return _mm256_add_epi32(s, _mm256_add_epi32(even, odd));
  };
  return {add(sum.a, a.a, b.a), add(sum.b, a.b, b.b)};
}

#endif
