#include "linear/blocks.hpp"

#include <cstring>

#include "simd/half.hpp"

namespace tenfold {
namespace {

uint16_t u16(const uint8_t* p) { return static_cast<uint16_t>(p[0] | p[1] << 8); }
uint32_t u32(const uint8_t* p) { return u16(p) | static_cast<uint32_t>(u16(p + 2)) << 16; }

void nibbles(const uint8_t* p, uint8_t* codes) {
  for (int i = 0; i < 16; ++i) {
    codes[i] = p[i] & 15;
    codes[i + 16] = p[i] >> 4;
  }
}

void fifth_bits(uint32_t high, uint8_t* codes) {
  for (int i = 0; i < 32; ++i) codes[i] = static_cast<uint8_t>(codes[i] | (high >> i & 1) << 4);
}

void q4_0(const uint8_t* p, Block& b) {
  b.d = u16(p);
  nibbles(p + 2, b.codes);
}

void q4_1(const uint8_t* p, Block& b) {
  b.d = u16(p);
  b.min = u16(p + 2);
  nibbles(p + 4, b.codes);
}

void q5_0(const uint8_t* p, Block& b) {
  b.d = u16(p);
  nibbles(p + 6, b.codes);
  fifth_bits(u32(p + 2), b.codes);
}

void q5_1(const uint8_t* p, Block& b) {
  b.d = u16(p);
  b.min = u16(p + 2);
  nibbles(p + 8, b.codes);
  fifth_bits(u32(p + 4), b.codes);
}

void q8_0(const uint8_t* p, Block& b) {
  b.d = u16(p);
  for (int i = 0; i < 32; ++i) b.codes[i] = p[2 + i] ^ 0x80;  // signed to code - 128
}

void q2_k(const uint8_t* p, Block& b) {
  for (int i = 0; i < 16; ++i) {
    b.scales[i] = static_cast<int8_t>(p[i] & 15);
    b.mins[i] = static_cast<int8_t>(p[i] >> 4);
  }
  for (int i = 0; i < kSuper; ++i) {
    const int half = i / 128, shift = i % 128 / 32 * 2;
    b.codes[i] = p[16 + half * 32 + i % 32] >> shift & 3;
  }
  b.d = u16(p + 80);
  b.min = u16(p + 82);
}

void q3_k(const uint8_t* p, Block& b) {
  const uint8_t *high = p, *low = p + 32, *scales = p + 96;
  for (int i = 0; i < 16; ++i) {
    const int four = i < 8 ? scales[i] & 15 : scales[i - 8] >> 4;
    const int two = scales[8 + i % 4] >> (i / 4 * 2) & 3;
    b.scales[i] = static_cast<int8_t>((four | two << 4) - 32);
  }
  for (int i = 0; i < kSuper; ++i) {
    const int half = i / 128, quarter = i % 128 / 32;
    const int third = high[i % 32] >> (half * 4 + quarter) & 1;
    b.codes[i] = static_cast<uint8_t>((low[half * 32 + i % 32] >> (quarter * 2) & 3) | third << 2);
  }
  b.d = u16(p + 108);
}

// The eight 6-bit scales and offsets of Q4_K and Q5_K.
void six_bit_scales(const uint8_t* s, Block& b) {
  for (int j = 0; j < 4; ++j) {
    b.scales[j] = static_cast<int8_t>(s[j] & 63);
    b.mins[j] = static_cast<int8_t>(s[j + 4] & 63);
    b.scales[j + 4] = static_cast<int8_t>((s[j + 8] & 15) | s[j] >> 6 << 4);
    b.mins[j + 4] = static_cast<int8_t>(s[j + 8] >> 4 | s[j + 4] >> 6 << 4);
  }
}

void super_nibbles(const uint8_t* p, uint8_t* codes) {
  for (int i = 0; i < kSuper; ++i) codes[i] = p[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15;
}

void q4_k(const uint8_t* p, Block& b) {
  b.d = u16(p);
  b.min = u16(p + 2);
  six_bit_scales(p + 4, b);
  super_nibbles(p + 16, b.codes);
}

void q5_k(const uint8_t* p, Block& b) {
  b.d = u16(p);
  b.min = u16(p + 2);
  six_bit_scales(p + 4, b);
  super_nibbles(p + 48, b.codes);
  for (int i = 0; i < kSuper; ++i)
    b.codes[i] = static_cast<uint8_t>(b.codes[i] | (p[16 + i % 32] >> (i / 32) & 1) << 4);
}

void q6_k(const uint8_t* p, Block& b) {
  for (int i = 0; i < kSuper; ++i) {
    const int half = i / 128, quarter = i % 128 / 32, l = i % 32;
    const int low = p[half * 64 + quarter % 2 * 32 + l] >> (quarter / 2 * 4) & 15;
    const int high = p[128 + half * 32 + l] >> (quarter * 2) & 3;
    b.codes[i] = static_cast<uint8_t>(low | high << 4);
  }
  std::memcpy(b.scales, p + 192, 16);
  b.d = u16(p + 208);
}

constexpr Encoding kEncodings[] = {
    {"Q4_0", 32, 18, 4, 32, Scales::half, 3, 15, q4_0},
    {"Q4_1", 32, 20, 4, 32, Scales::affine, -1, 15, q4_1},
    {"Q5_0", 32, 22, 5, 32, Scales::half, 4, 31, q5_0},
    {"Q5_1", 32, 24, 5, 32, Scales::affine, -1, 31, q5_1},
    {"Q8_0", 32, 34, 8, 32, Scales::half, 7, 255, q8_0},
    {"Q2_K", 256, 84, 4, 16, Scales::super_affine, -1, 3, q2_k},
    {"Q3_K", 256, 110, 4, 16, Scales::super, 2, 7, q3_k},
    {"Q4_K", 256, 144, 4, 32, Scales::super_affine, -1, 15, q4_k},
    {"Q5_K", 256, 176, 5, 32, Scales::super_affine, -1, 31, q5_k},
    {"Q6_K", 256, 210, 8, 16, Scales::super, 5, 63, q6_k},
};

}  // namespace

void block_values(const Encoding& encoding, const Block& block, float* values) {
  const bool super = encoding.scales == Scales::super || encoding.scales == Scales::super_affine;
  const int zero = encoding.zero_shift < 0 ? 0 : 1 << encoding.zero_shift;
  const float d = f16_to_float(block.d);
  const float min = encoding.scales == Scales::affine || encoding.scales == Scales::super_affine
                        ? f16_to_float(block.min)
                        : 0.0f;
  for (int first = 0, group = 0; first < encoding.elements; first += encoding.group, ++group) {
    const float s = super ? d * static_cast<float>(block.scales[group]) : d;
    const float m = super ? -(min * static_cast<float>(block.mins[group])) : min;
    for (int i = first; i < first + encoding.group; ++i) {
      const float product = s * static_cast<float>(block.codes[i] - zero);
      values[i] = product + m;
    }
  }
}

std::span<const Encoding> encodings() { return kEncodings; }

const Encoding* find_encoding(const std::string& name) {
  for (const Encoding& encoding : kEncodings)
    if (name == encoding.name) return &encoding;
  return nullptr;
}

}  // namespace tenfold
