// The probes of the level being compiled: as many chains as hide the latency of the instruction.
#include "limits/probes.hpp"

#include "simd/simd.hpp"

namespace tenfold::TENFOLD_LEVEL {
namespace {

#if defined(TENFOLD_AVX512)
constexpr int kFloatChains = 12;
constexpr const char* kFloatName = "vfmadd zmm";
constexpr const char* kIntName = "vpdpbusd zmm";
#elif defined(TENFOLD_AVX2)
constexpr int kFloatChains = 6;  // of two registers
constexpr const char* kFloatName = "vfmadd ymm";
constexpr const char* kIntName = "vpmaddubsw + vpaddw ymm";
#else
constexpr int kFloatChains = 1;  // of 16 floats
constexpr const char* kFloatName = "portable multiply-adds";
constexpr const char* kIntName = "portable int8 multiply-adds";
#endif

int64_t run_f32(int64_t rounds) {
  const Vec half = set1(0.5f), one = set1(1.0f);
  Vec sum[kFloatChains];
  for (int c = 0; c < kFloatChains; ++c) sum[c] = set1(static_cast<float>(c));
  for (int64_t i = 0; i < rounds; ++i)
    for (int c = 0; c < kFloatChains; ++c) sum[c] = fma(sum[c], half, one);
  float kept[16];
  for (int c = 0; c < kFloatChains; ++c) {
    store(kept, sum[c]);
    __asm__ volatile("" : : "r"(kept) : "memory");
  }
  return rounds * kFloatChains * 16;
}

#if defined(TENFOLD_AVX512)
int64_t run_int8(int64_t rounds) {
  constexpr int kChains = 12;
  const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-5);
  __m512i sum[kChains];
  for (int c = 0; c < kChains; ++c) sum[c] = _mm512_set1_epi32(c);
  for (int64_t i = 0; i < rounds; ++i)
    for (int c = 0; c < kChains; ++c) sum[c] = _mm512_dpbusd_epi32(sum[c], a, b);
  for (int c = 0; c < kChains; ++c) __asm__ volatile("" : : "v"(sum[c]));
  return rounds * kChains * 64;
}

uint64_t read(const uint8_t* data, size_t bytes) {
  __m512i sum[8] = {};
  for (const uint8_t* end = data + bytes; data != end; data += 512)
    for (int i = 0; i < 8; ++i) sum[i] = _mm512_xor_si512(sum[i], _mm512_loadu_si512(data + 64 * i));
  for (int i = 1; i < 8; ++i) sum[0] = _mm512_xor_si512(sum[0], sum[i]);
  return static_cast<uint64_t>(_mm512_reduce_add_epi64(sum[0]));
}
#elif defined(TENFOLD_AVX2)
int64_t run_int8(int64_t rounds) {
  constexpr int kChains = 8;  // the products take registers too
  __m256i a = _mm256_set1_epi8(3);
  const __m256i b = _mm256_set1_epi8(-5);
  __m256i sum[kChains];
  for (int c = 0; c < kChains; ++c) sum[c] = _mm256_set1_epi16(static_cast<int16_t>(c));
  for (int64_t i = 0; i < rounds; ++i)
    for (int c = 0; c < kChains; ++c) {
      __asm__("" : "+x"(a));  // else the product is computed once
      sum[c] = _mm256_add_epi16(sum[c], _mm256_maddubs_epi16(a, b));
    }
  for (int c = 0; c < kChains; ++c) __asm__ volatile("" : : "x"(sum[c]));
  return rounds * kChains * 32;
}

uint64_t read(const uint8_t* data, size_t bytes) {
  __m256i sum[8] = {};
  for (const uint8_t* end = data + bytes; data != end; data += 256)
    for (int i = 0; i < 8; ++i)
      sum[i] = _mm256_xor_si256(sum[i], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data + 32 * i)));
  for (int i = 1; i < 8; ++i) sum[0] = _mm256_xor_si256(sum[0], sum[i]);
  return static_cast<uint64_t>(_mm256_extract_epi64(sum[0], 0) ^ _mm256_extract_epi64(sum[0], 3));
}
#else
int64_t run_int8(int64_t rounds) {
  uint8_t a[64];
  int8_t b[64];
  int32_t sum[16] = {};
  for (int i = 0; i < 64; ++i) {
    a[i] = 3;
    b[i] = -5;
  }
  for (int64_t i = 0; i < rounds; ++i) {
    __asm__ volatile("" : : "r"(a), "r"(b) : "memory");  // else the products are computed once
    for (int lane = 0; lane < 16; ++lane)
      for (int k = 0; k < 4; ++k) sum[lane] += a[4 * lane + k] * b[4 * lane + k];
  }
  __asm__ volatile("" : : "r"(sum) : "memory");
  return rounds * 64;
}

uint64_t read(const uint8_t* data, size_t bytes) {
  const auto* p = reinterpret_cast<const uint64_t*>(data);
  uint64_t sum[8] = {};
  for (const uint64_t* end = p + bytes / 8; p != end; p += 8)
    for (int i = 0; i < 8; ++i) sum[i] ^= p[i];
  for (int i = 1; i < 8; ++i) sum[0] ^= sum[i];
  return sum[0];
}
#endif

}  // namespace

LevelProbes probes() { return {{"f32", kFloatName, run_f32}, {"int8", kIntName, run_int8}, read}; }

}  // namespace tenfold::TENFOLD_LEVEL
