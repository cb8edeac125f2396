// One loaded model: packed weights, workspace and the ops of ops/base.py over them.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "dispatch/kernels.hpp"
#include "linear/encode.hpp"
#include "model/batch.hpp"
#include "model/kv.hpp"
#include "model/memory.hpp"
#include "model/plan.hpp"
#include "model/timings.hpp"
#include "threads/pool.hpp"

namespace tenfold {

struct Spec {
  int layers, hidden, heads, kv_heads, head_dim, ffn, vocab, max_context;
  int head_rows;  // of the head: vocab where it is tied
  float norm_eps, embed_scale, query_scale, logit_softcap;
  Activation activation;
  bool qkv_bias, qk_norm, post_norms, tied_head;
  std::vector<int> windows;                   // per layer; 0: full attention
  std::vector<double> inv_freq, inv_freq_local;  // the local one may be empty
};

struct Layer {
  Matrix q, k, v, o, gate, up, down;
  std::vector<float> attn_norm, mlp_norm, q_norm, k_norm, attn_post_norm, mlp_post_norm;
  std::vector<float> q_bias, k_bias, v_bias;
};

// cos and sin of position * inv_freq for positions 0 … positions - 1, each [positions][half].
struct RopeTable {
  std::vector<double> inv_freq;
  std::vector<float> cos, sin;
  void grow(int positions);
};

// A buffer of rows, for looking at from outside.
struct Rows {
  const float* data;
  int rows, width;
  ptrdiff_t stride;
};

// One weight matrix and the kernel that multiplies by it.
struct MatrixInfo {
  int layer;  // -1: outside the layers
  std::string name, format, arithmetic;
  int64_t outputs, inputs;
  size_t bytes;      // packed
  int rows_at_once;  // rows served by one pass over the weights
};

// Threads that compute, one call at a time, for one model or for several.
struct Crew {
  Pool pool;
  std::atomic<bool> busy{false};
};

// Keeps a second caller out.
class Hold {
 public:
  explicit Hold(std::atomic<bool>& busy) : busy_(busy) {
    if (busy_.exchange(true)) throw std::runtime_error("two threads are using one model, or its threads, at once");
  }
  ~Hold() { busy_.store(false); }
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;

 private:
  std::atomic<bool>& busy_;
};

// Not re-entrant: a second call while one runs throws std::runtime_error. Errors of the caller are
// std::invalid_argument and leave the model usable.
class Model {
 public:
  // `beside`: one whose threads this one uses, and whose embedding, if that is `shared` and fits; it has to outlive it.
  Model(Spec spec, const std::string& level, int threads, const std::vector<int>& cpus = {},
        const Model* beside = nullptr, bool shared = false);

  // Names as in ops/tensors.py, without "layers.{i}."; layer -1 for those outside the layers.
  void set_matrix(int layer, const std::string& name, const std::string& kind, const uint8_t* data, int64_t rows,
                  int64_t cols, int64_t row_bytes, Form form);
  void set_vector(int layer, const std::string& name, const float* data, int64_t size);
  void check_complete() const;

  void upload(const BatchView& batch);
  void embed();
  void qkv(int layer, const Kv& kv);
  void attend(int layer, const Kv& kv);
  void attn_out(int layer);
  void mlp(int layer);
  // Of the batch's `rows`; the largest of each kScanBlock of them are found on the way.
  Rows logits();
  // All of the pass but logits(). Of the last layer only what these need is computed: the hidden rows are then others than
  // the batch's, and no op but logits() may follow.
  void forward(const Kv& kv);
  // [rows][blocks]: order_key of each block's largest, where these are the logits of the last pass; else null.
  const int32_t* maxima_of(const float* logits, int rows, int width) const;

  // While on, the wall time of each op adds up; turning it on begins at zero.
  void record(bool on);
  Timings timings();

  // f(kernels, pool) on this thread, subnormals flushed, as one of the model's own calls.
  template <typename F>
  void exclusively(const F& f) {
    const Hold hold(busy_);
    const FlushSubnormals flush;
    f(kernels_, pool_);
  }

  Rows view(const std::string& which) const;
  const Spec& spec() const { return spec_; }
  const char* level() const { return kernels_.name; }
  int threads() const { return pool_.threads(); }
  size_t weight_bytes() const;
  std::vector<std::string> weight_kinds() const;
  // How attention of the last batch was cut for the threads.
  const AttendPlanner& planner() const { return planner_; }
  // All matrices, as a batch of `rows` rows uses them; `head` is the embedding again where it is tied.
  std::vector<MatrixInfo> matrices(int rows) const;
  const char* attend_arithmetic(KvType type) const {
    KvLayer kv{};
    kv.type = type;
    kv.head_dim = spec_.head_dim;
    return kernels_.attend_arithmetic(kv);
  }

 private:
  struct Job {
    const Packed* w;
    float* out;
    ptrdiff_t stride;
    bool accumulate;
  };
  // Activations ready for linears: float rows, and quantized when some matrix wants them so.
  struct Input {
    bool grouped = false;  // for a matrix that is
    Array<float> values;
    Array<uint8_t> panels;
    Acts acts;
  };
  // A thread's own.
  struct alignas(64) Own {
    uint64_t turn = 0;  // when `input` was made
    Input input;
    Array<float> row;  // for one of hidden size
  };
  class Guard;

  void shape_input(Input& input, int rows, int cols);
  void quantize_row(const Input& input, int row, const float* values, int cols);
  template <typename F>
  auto prepare(Input& together, int rows, int cols, const F& make);
  auto from_values(Input& input, int rows, int cols);
  auto normed(Input& input, const std::vector<float>& weight, int rows, const int32_t* pick,
              std::initializer_list<const Packed*> takers);
  // input(thread) is what they are applied to. Items begin at whole `unit`s of tiles; also(first tile, last + 1, row,
  // rows) follows each.
  template <typename X, typename F>
  void linear(const Job& job, const X& input, int rows, int unit, const F& also);
  template <typename X>
  void linear(const Job& job, const X& input, int rows);
  template <typename F>
  void each_row(int rows, const F& f);
  // Columns of the gated activation that are made, and quantized, together.
  int gate_unit() const { return std::max(kGroup, kernels_.tiles_together * 2 * kTile); }
  void gated_unit(const Layer& layer, const Acts& x, int unit, int first, int last, int thread);
  void finish_residual(const std::vector<float>& post_norm);
  void fetch_slot(const KvLayer& kv, int head, int row) const;
  float* project(const Packed& w, const std::vector<float>& bias, float* out, int first, int last, const Acts& x,
                 int row, int rows);
  void turn_head(float* head, const std::vector<float>& norm, const RopeTable& rope, int position);
  void query_heads(const Layer& layer, const RopeTable& rope, int first, int last, const Acts& x, int row, int rows);
  void key_value_heads(const Layer& layer, const RopeTable& rope, const KvLayer& kv, int first, int last, const Acts& x,
                       int row, int rows);
  void project_heads(int layer, const Kv& kv, bool keys, bool queries);
  void last_qkv(const Kv& kv);
  void number_rows();
  bool find_wanted();
  void narrow();
  void check_kv(const Kv& kv);
  void check_layer(int layer) const;
  Matrix* find_matrix(int layer, const std::string& name, int64_t& rows, int64_t& cols);
  std::vector<float>* find_vector(int layer, const std::string& name, int64_t& size);
  const Packed& embedding() const { return shared_ != nullptr ? shared_->embedding() : embed_.view; }
  const Packed& head() const { return spec_.tied_head ? embedding() : head_.view; }
  const RopeTable& rope_of(int layer) const;

  Spec spec_;
  const Kernels& kernels_;
  const Model* shared_;  // the owner of the embedding, where that is another model
  std::shared_ptr<Crew> crew_;
  Pool& pool_;
  std::atomic<bool>& busy_;
  Timings timings_;

  Arena arena_;
  Matrix embed_, head_;
  std::vector<float> norm_;
  std::vector<Layer> layers_;
  std::array<RopeTable, 2> ropes_;  // global, local

  Batch batch_;
  std::vector<int> sequence_of_;  // per row
  std::vector<int32_t> wanted_;   // per sequence: its first row whose logits are wanted
  uint64_t checked_kv_ = 0;  // id of the KV memory the batch's tables were checked against
  AttendPlanner planner_;
  Array<float> x_, y_, qkv_, logits_, partials_, scratch_;
  Array<int32_t> maxima_;  // of logits_
  Input normed_, attended_, gated_, last_;  // last: of the head
  std::vector<Own> own_;  // one per thread
  uint64_t turn_ = 0;     // numbers the inputs that threads make for themselves
  ptrdiff_t hidden_stride_, qkv_stride_, logit_stride_;
  int logit_rows_ = 0;
};

const Kernels& find_level(const std::string& level);

}  // namespace tenfold
