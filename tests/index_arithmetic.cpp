// The index arithmetic of csrc as C functions, for tests/test_index_arithmetic.py. Lists of numbers are written to
// `out`; what is returned is how many.
#include "axes.h"
#include "cpu/depthwise/row_plan.h"
#include "cpu/tiles.h"

using namespace dcls;

namespace {

class Writer {
 public:
    explicit Writer(int64_t* out) : out_(out) {}
    template <typename... Numbers>
    void operator()(Numbers... numbers) {
        ((out_[count_++] = numbers), ...);
    }
    int64_t count() const { return count_; }

 private:
    int64_t* out_;
    int64_t count_ = 0;
};

}  // namespace

extern "C" {

int64_t steps(int64_t first, int64_t step, int64_t extent, int64_t count, int64_t* out) {
    const auto inside = steps_inside(first, step, extent, count);
    Writer write(out);
    write(inside.begin, inside.end);
    return write.count();
}

int64_t all_steps(int64_t first, int64_t step, int64_t extent, int64_t* out) {
    const auto inside = steps_inside(first, step, extent);
    Writer write(out);
    write(inside.begin, inside.end);
    return write.count();
}

int64_t tiles(int64_t first_image, int64_t images, int64_t z, int64_t y, int64_t x, int64_t max_pixels, int64_t* out) {
    const cpu::Tiling tiling(first_image, images, {z, y, x}, max_pixels);
    Writer write(out);
    for (int64_t t = 0; t < tiling.count(); ++t) {
        const cpu::Tile tile = tiling[t];
        write(tile.first_image, tile.images, tile.begin[0], tile.size[0], tile.begin[1], tile.size[1], tile.begin[2],
              tile.size[2]);
    }
    return write.count();
}

int64_t row_blocks(int64_t results, int64_t taps, int64_t pixels, int64_t result_step, int64_t kernel_step,
                   int64_t padding, int64_t holds_kernel, int64_t in_block, int64_t* out) {
    const cpu::Held held = holds_kernel != 0 ? cpu::Held::kernel : cpu::Held::source;
    const cpu::RowPlanner planner({results, taps, pixels, result_step, kernel_step, padding}, held, in_block);
    const cpu::RowPlan plan = planner.plan();
    Writer write(out);
    write(plan.zeros_before, plan.zeros_after);
    for (int64_t b = 0; b < plan.block_count; ++b) {
        write(plan.blocks[b].first, plan.blocks[b].count, plan.blocks[b].begin, plan.blocks[b].end);
    }
    return write.count();
}
}
