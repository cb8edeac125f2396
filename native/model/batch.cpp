#include "model/batch.hpp"

#include <stdexcept>
#include <string>

namespace tenfold {
namespace {

void require(bool ok, const char* what, int64_t index, int64_t value) {
  if (!ok)
    throw std::invalid_argument(std::string("batch: ") + what + " (entry " + std::to_string(index) + " is " +
                                std::to_string(value) + ")");
}

}  // namespace

void check_batch(const BatchView& batch, int vocab, int max_context) {
  const auto& [tokens, positions, starts, context, tables, table_width, rows] = batch;
  const auto count = static_cast<int64_t>(tokens.size());
  const auto sequences = static_cast<int64_t>(context.size());
  require(count <= 1 << 24, "too many tokens in one step", 0, count);
  require(static_cast<int64_t>(positions.size()) == count, "positions and tokens differ in number", 0, count);
  require(static_cast<int64_t>(starts.size()) == sequences + 1, "starts must have one entry more than context", 0,
          static_cast<int64_t>(starts.size()));
  require(static_cast<int64_t>(tables.size()) == sequences * table_width, "tables must have a row per sequence", 0,
          static_cast<int64_t>(tables.size()));
  for (int64_t i = 0; i < count; ++i)
    require(tokens[i] >= 0 && tokens[i] < vocab, "token outside the vocabulary", i, tokens[i]);
  require(starts[0] == 0 && starts[sequences] == count, "starts must go from 0 to the number of tokens", sequences,
          starts[sequences]);
  for (int64_t s = 0; s < sequences; ++s) {
    require(starts[s + 1] >= starts[s], "starts must ascend", s + 1, starts[s + 1]);
    require(starts[s + 1] <= count, "starts beyond the tokens", s + 1, starts[s + 1]);
    const int32_t length = starts[s + 1] - starts[s];
    require(context[s] >= length && context[s] <= max_context, "context shorter than its rows or too long", s,
            context[s]);
    for (int32_t i = starts[s]; i < starts[s + 1]; ++i)
      require(positions[i] == context[s] - starts[s + 1] + i, "positions must be consecutive and end at context", i,
              positions[i]);
  }
  for (size_t i = 0; i < rows.size(); ++i)
    require(rows[i] >= (i > 0 ? rows[i - 1] + 1 : 0) && rows[i] < count, "rows must ascend within the tokens",
            static_cast<int64_t>(i), rows[i]);
}

void Batch::assign(const BatchView& from) {
  const auto copy = [](std::vector<int32_t>& to, Ints values) { to.assign(values.begin(), values.end()); };
  copy(tokens, from.tokens);
  copy(positions, from.positions);
  copy(starts, from.starts);
  copy(context, from.context);
  copy(tables, from.tables);
  copy(rows, from.rows);
  table_width = static_cast<int>(from.table_width);
}

void check_tables(const Batch& batch, int64_t blocks, int block_size) {
  for (int s = 0; s < batch.sequences(); ++s) {
    if (batch.starts[s] == batch.starts[s + 1]) continue;  // no rows: nothing of it is read
    const int64_t used = (static_cast<int64_t>(batch.context[s]) + block_size - 1) / block_size;
    require(used <= batch.table_width, "context does not fit the block table", s, batch.context[s]);
    for (int64_t i = 0; i < used; ++i)
      require(batch.table(s)[i] >= 0 && batch.table(s)[i] < blocks, "block outside the KV memory", i,
              batch.table(s)[i]);
  }
}

}  // namespace tenfold
