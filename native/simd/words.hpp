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
// x, rounded, as 256 high + low, each a signed byte; the sums take what was stored.
inline void store_digits(int8_t* high, int8_t* low, Vec x, IVec& high_sum, IVec& low_sum) {
  const IVec v = to_int(x), h = _mm512_srai_epi32(iadd(v, iset1(128)), 8), l = _mm512_sub_epi32(v, _mm512_slli_epi32(h, 8));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(high), _mm512_cvtepi32_epi8(h));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(low), _mm512_cvtepi32_epi8(l));
  high_sum = iadd(high_sum, h);
  low_sum = iadd(low_sum, l);
}

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
inline void store_digits(int8_t* high, int8_t* low, Vec x, IVec& high_sum, IVec& low_sum) {
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
  half(x.a, 0, high_sum.a, low_sum.a);
  half(x.b, 8, high_sum.b, low_sum.b);
}

#endif
