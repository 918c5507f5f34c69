// The gradient of a depthwise kernel in half types on tensor cores, accumulated in float32, as depthwise_maps.h has it.
//
// For a row j of taps, 16 columns of grad_output and the columns of input that they meet, a warp adds up over all rows
// and images
//
//     D[x, i] = sum over rows y of grad_output[y, x] * in[y + j, i]
//
// with mma.m16n8k16, whose sums run over 16 pairs of a row and an image. D's entries (x, x + i) for every x belong to
// tap i, so that D may be summed over all columns of the plane too; the band is added up at the end. With 17 taps, 17
// of 32 columns of D are of use.
//
//      grad_output, transposed       input, row y + j         D
//      [ g g g ... 16 pairs ]        [ i i i i i ]            [ \ \ \       ]
//   16 [ g g g              ]   x    [ i i i     ]      =     [   \ \ \     ]
//      [ g                  ]        [ ...       ]            [     \ \ \   ]
//
// A warp makes kTapRows rows of taps, which share what is loaded of grad_output. Rows of input outside of the plane are
// a row of zeros. A block stages some images of a channel at a time (staging.h), and adds up a chunk of all images;
// chunks are added by another kernel: everything in an order that depends on shapes only.
//
// Bound by the tensor cores: for 3 rows of 17 taps, 12 multiplications and 7 loads.
//
// An entry that is infinite or NaN may show in taps that do not meet it, as 0 times it.
#include "kernel_gradient.h"

#include "../launch.h"

namespace dcls::cuda {
namespace {

constexpr int kTapRows = 3;  // of a warp
constexpr int kMostWarps = 6;
constexpr int kPairs = 16;    // that a multiplication adds up
constexpr int kColumns = 16;  // of grad_output: rows of D
constexpr int kTile = 8;      // columns of D
constexpr int kMostTiles = 6;
constexpr int kMostTileRows = 256, kMostTileColumns = 256;
constexpr int64_t kSharedBytes = 72 << 10;

// Taps whose band is `tiles` wide.
constexpr int taps_of(int tiles) { return tiles * kTile - (kColumns - 1); }

// How the work is cut.
struct Plan : GradientPlan {
    int warps, tiles;

    __host__ __device__ int band_pitch() const { return tiles * kTile + 1; }
    // Behind the staged planes there is a row of zeros; the bands of all warps take their place at the end.
    __host__ __device__ int zeros() const { return grad.entries() + in.entries(); }
    __host__ __device__ int entries() const { return zeros() + std::max(grad.row(), in.row()); }
    int64_t bytes() const { return std::max<int64_t>(2 * entries(), int64_t{4} * warps * kColumns * band_pitch()); }
};

template <typename T>
Plan make_plan(const Problem& problem, const Planes<const T>& in, const Planes<const T>& grad, int64_t shared_bytes) {
    const PlaneMap map(Role::grad_kernel, problem, 0);  // no phase has more outputs
    Plan plan{};
    plan.channels = 1;
    plan.chunk = images_of_chunk(problem, 1);
    plan.warps = ceil_div(even_share(map.y.outputs, kMostWarps * kTapRows), kTapRows);
    plan.tap_rows = plan.warps * kTapRows;
    plan.tap_columns = even_share(map.x.outputs, taps_of(kMostTiles));
    plan.tiles = ceil_div(plan.tap_columns + kColumns - 1, kTile);
    plan.images = 1;
    plan.tile_rows = std::min(std::max(map.y.taps, 1), kMostTileRows);
    plan.tile_columns = std::min(round_up(std::max(map.x.taps, 1), kColumns), kMostTileColumns);
    const auto fits = [&] {
        plan.in_columns = plan.tile_columns - kColumns + round_up(plan.tiles, 2) * kTile;  // tiles are read in pairs
        plan.make_room(problem, in, grad, plan.warps * kWarp);
        return plan.bytes() <= shared_bytes;
    };
    while (!fits()) {
        int& too_many = plan.tile_rows > kPairs ? plan.tile_rows : plan.tile_columns;
        too_many = ceil_div(too_many, 2);
        plan.tile_columns = round_up(plan.tile_columns, kColumns);
    }
    fill_with_images(plan.images, plan.chunk, std::max(in.image, grad.image), fits);
    plan.count(problem);
    return plan;
}

// D += grad_output x input for 16 pairs, whose rows this and the other lanes point to, and every 16 columns of
// grad_output. Tiles that have no column of `valid`, of those staged, are passed over.
template <int tiles, typename T>
__device__ void add_products(float (&sums)[kTapRows][tiles][4], const T* grad, const T* const (&in)[kTapRows],
                             int columns, const Steps<int>& valid) {
    for (int x = 0; x < columns; x += kColumns) {
        uint32_t a[4];
        load_matrices<true>(a, grad + x);
#pragma unroll
        for (int tile = 0; tile < tiles; tile += 2) {
            const int first = x + tile * kTile, second = first + kTile;
            if (second + kTile <= valid.begin || first >= valid.end) {  // the same for all threads
                continue;
            }
            uint32_t both[kTapRows][4];
#pragma unroll
            for (int j = 0; j < kTapRows; ++j) {
                load_matrices<true>(both[j], in[j] + first);
            }
            if (second > valid.begin) {
#pragma unroll
                for (int j = 0; j < kTapRows; ++j) {
                    const uint32_t b[2] = {both[j][0], both[j][1]};
                    multiply_add<T>(sums[j][tile], a, b);
                }
            }
            if (tile + 1 < tiles && second < valid.end) {
#pragma unroll
                for (int j = 0; j < kTapRows; ++j) {
                    const uint32_t b[2] = {both[j][2], both[j][3]};
                    multiply_add<T>(sums[j][tile + 1], a, b);
                }
            }
        }
    }
}

// A warp adds up the band of each of its rows of taps, through shared memory.
template <int tiles>
__device__ void store(const Problem& problem, const Plan& plan, int index, const float (&sums)[kTapRows][tiles][4],
                      float* band, float* chunks) {
    const int warp = thread_index() / kWarp, lane = thread_index() % kWarp;
    const GradientItem item(plan, index);
    const PlaneMap map(Role::grad_kernel, problem, item.phase);
    float* const plane =
        chunks + (int64_t{item.chunk} * problem.out_channels() + item.channel) * problem.kernel_entries();
    band += warp * kColumns * plan.band_pitch();
    __syncthreads();  // what was staged has been read
#pragma unroll
    for (int j = 0; j < kTapRows; ++j) {
        __syncwarp();
#pragma unroll
        for (int tile = 0; tile < tiles; ++tile) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int row = lane / 4 + i / 2 * 8, column = tile * kTile + lane % 4 * 2 + i % 2;
                band[row * plan.band_pitch() + column] = sums[j][tile][i];
            }
        }
        __syncwarp();
        const int tap_y = item.tap_y + warp * kTapRows + j;
        for (int i = lane; i < plan.tap_columns; i += kWarp) {
            float sum = 0;
            for (int x = 0; x < kColumns; ++x) {
                sum += band[x * plan.band_pitch() + x + i];
            }
            if (tap_y < map.y.outputs && item.tap_x + i < map.x.outputs) {
                plane[map.y.out[tap_y] * problem.x.kernel + map.x.out[item.tap_x + i]] = sum;
            }
        }
    }
}

template <int tiles, typename T>
__global__ void __launch_bounds__(kMostWarps* kWarp, tiles <= 4 ? 3 : 2)
    kernel_gradient_bands(Problem problem, Plan plan, Planes<const T> in, Planes<const T> grad, float* chunks) {
    T* const staged_grad = shared_memory<T>();
    T* const staged_in = staged_grad + plan.grad.entries();
    const T* const zeros = staged_grad + plan.zeros();
    const int warp = thread_index() / kWarp, lane = thread_index() % kWarp;
    // When matrices are loaded, this lane points to one of 16 pairs of a row and an image, and there to one of two sets
    // of 8 columns.
    const int grad_pair = lane % 8 + lane / 16 * 8, grad_column = lane / 8 % 2 * kTile;
    const int in_pair = lane % 16, in_column = lane / 16 * kTile;

    for_each_item(static_cast<int>(plan.items()), [&](int index) {
        float sums[kTapRows][tiles][4] = {};
        for (int number = 0; number < plan.steps(); ++number) {
            const GradientItem item(plan, index);
            stage<0>(problem, plan, GradientItem(plan, opaque(index)), number, in, grad, staged_grad, staged_in,
                     plan.entries());
            const GradientStep step(problem, plan, item, number);
            const Steps<int> valid{step.x.first - step.x.reach, step.x.first - step.x.reach + step.x.count};
            // The tile's rows that meet a row of input at any of this warp's taps.
            const int above = step.y.reach + warp * kTapRows - step.y.first;
            const int begin = std::max(-(above + kTapRows - 1), 0);
            const int end = std::min(plan.tile_rows, step.y.count - above);
            for (int pair = 0; pair < (end - begin) * plan.images; pair += kPairs) {
                // Where there is no such row or image, grad_output is taken to be zero.
                int row = pair + grad_pair;
                int image = plan.by_image.split_off(row);
                row += begin;
                const T* const own_grad =
                    row < end ? staged_grad + plan.grad.slot(image, 0) + row * plan.grad.pitch() + grad_column : zeros;
                row = pair + in_pair;
                image = plan.by_image.split_off(row);
                row += above + begin;
                const T* own_in[kTapRows];
#pragma unroll
                for (int j = 0; j < kTapRows; ++j) {
                    own_in[j] = (row + j >= 0 && row + j < step.y.count
                                     ? staged_in + plan.in.slot(image, 0) + (row + j) * plan.in.pitch()
                                     : zeros) +
                                in_column;
                }
                add_products<tiles>(sums, own_grad, own_in, step.tile_columns(plan), valid);
            }
        }
        store(problem, plan, opaque(index), sums, shared_memory<float>(), chunks);
    });
}

}  // namespace

template <typename T>
std::optional<Tensor> kernel_gradient_by_tensor_cores(const Problem& problem, const Tensor& input,
                                                      const Tensor& grad_output) {
    const Tensor in = whole_planes(input), grad = whole_planes(grad_output);
    const Planes<const T> in_planes(in), grad_planes(grad);
    const Plan plan = make_plan<T>(problem, in_planes, grad_planes, std::min(kSharedBytes, most_shared_bytes(in)));
    std::optional<Tensor> sum;
    if (plan.items() > kMostItems) {
        return sum;
    }
    const Launcher launch(in);
    dispatch_count<2, kMostTiles>(plan.tiles, [&]<int tiles>() {
        if (compiled_for(kernel_gradient_bands<tiles, T>) >= 80) {
            const Tensor chunks = empty_chunks(problem, plan.chunks, input);
            launch(kernel_gradient_bands<tiles, T>, plan.items(), plan.warps * kWarp, plan.bytes(), problem, plan,
                   in_planes, grad_planes, static_cast<float*>(chunks.mutable_data_ptr()));
            sum = sum_over(chunks, {0});
        }
    });
    return sum;
}

template std::optional<Tensor> kernel_gradient_by_tensor_cores<Half>(const Problem&, const Tensor&, const Tensor&);
template std::optional<Tensor> kernel_gradient_by_tensor_cores<BFloat16>(const Problem&, const Tensor&, const Tensor&);

}  // namespace dcls::cuda
