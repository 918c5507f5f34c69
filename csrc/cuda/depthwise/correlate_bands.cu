// Depthwise convolution in half types on tensor cores, accumulated in float32: its output and the gradient of its
// input, as depthwise_maps.h has them.
//
// A row of 8 outputs is a row of inputs times a band matrix: B[i, x] = kernel[j, i - x] for kernel row j, 0 off the
// band. So a warp multiplies a matrix of 16 rows of input with the band of a kernel row, for every kernel row, and adds
// up: mma.m16n8k16, in steps of 8 columns. Of a multiplication with 17 taps a row, 17/24 is of use.
//
//     16 rows of input, shifted by j      band of kernel row j      16 rows of output
//     [ . . . . . . . . | . . . ]         [ k               ]       [ + + + + + + + + ]
//     [ . . . . . . . . | . . . ]    x    [ k k             ]   =   [ + + + + + + + + ]
//     [ . . . . . . . . | . . . ]         [ k k k  ...      ]       [ + + + + + + + + ]
//
// The 16 rows are any of the staged ones (staging.h): they are numbered image by image within a row of the plane, so
// that with 16 images or more they are the same row of each, and kernel rows that meet nothing are passed over. Rows of
// input outside of the plane are a row of zeros. A warp makes up to kTiles neighbouring tiles of 8 columns, which share
// the band. Warps have different channels where those lie next to each other, else different rows of one channel.
//
// Bound by the tensor cores: for a kernel row, 7 tiles of 8 columns are 14 multiplications, 5 loads of inputs and 3 of
// the band.
//
// An input that is infinite or NaN also shows in outputs of its tile that none of its taps reaches, as 0 times it; a
// tap that is, in outputs of rows that it does not reach.
#include "correlate.h"

#include "../launch.h"

namespace dcls::cuda {
namespace {

constexpr int kMostWarps = 8;
constexpr int kRows = 16;  // of a warp's matrices
constexpr int kUnit = 8;   // columns: of a tile, and of a step along the band
constexpr int kTiles = 8;  // of a warp
constexpr int kMostUnits = 5;
constexpr int kMostTaps = kMostUnits * kUnit - (kUnit - 1);  // whose band is that wide

// From a row of pixels to the next, in entries, where all of their channels lie next to each other.
template <typename T>
__host__ __device__ constexpr int pixel_pitch(int columns) {
    return (columns + 1) * kVector<T>;
}

// How the work is cut.
struct Plan : CorrelatePlan {
    int warps, tiles, units;  // units that the band of a tile is wide
    bool by_pixels, stores_pairs;
    Divisor by_image, by_column;

    // Behind the staged planes there is a row of zeros.
    __host__ __device__ int entries() const { return in.entries() + in.row() + taps.entries(); }
    template <typename T>
    int64_t bytes() const {
        return int64_t{sizeof(T)} * (entries() + (by_pixels ? kRows * pixel_pitch<T>(tile_columns) : 0));
    }
};

template <typename T>
Plan make_plan(Role role, const Problem& problem, bool channels_last, const Planes<const T>& in, const Planes<T>& out,
               int64_t shared_bytes) {
    const PlaneMap map(role, problem, 0);  // no phase has more taps
    const int rows = most_outputs(role, problem.y), columns = most_outputs(role, problem.x);
    const int most_channels = most_channel_slots(role, problem);
    const int copied = ceil_div(map.x.in_extent, map.x.in.step);
    const bool in_pieces = problem.x.stride == 1;  // else the phases' rows start anywhere
    Plan plan{};
    plan.channels = channels_last ? std::min(most_channels, kMostWarps) : 1;
    plan.warps = channels_last ? plan.channels : 4;
    plan.images = 1;
    plan.tile_rows = std::max(rows, 1);
    plan.tiles = even_share(ceil_div(columns, kUnit), kTiles);
    plan.tap_columns = even_share(map.x.taps, kMostTaps);
    plan.units = ceil_div(plan.tap_columns + kUnit - 1, kUnit);
    plan.tap_rows = std::min(std::max(map.y.taps, 1), 64);
    const auto fits = [&] {
        plan.tile_columns = plan.tiles * kUnit;
        plan.by_pixels = channels_last && problem.multiplier == 1 && plan.channels == kVector<T> &&
                         channels_at_once(in, plan.channels, problem.channels) > 1 &&
                         channels_at_once(out, plan.channels, problem.channels) > 1;
        const int in_rows = std::min(plan.tile_rows + plan.tap_rows - 1, ceil_div(map.y.in_extent, map.y.in.step));
        const int in_columns = (plan.tiles + plan.units) / 2 * 2 * kUnit;  // units are read in pairs
        const int zeros =
            in_pieces && plan.tile_columns >= columns && plan.tap_columns == map.x.taps ? map.x.inside().begin : 0;
        Piece piece;
        if (in_pieces && plan.tap_columns == map.x.taps) {
            piece.columns = columns_at_once(in, map.x.in.first, map.x.in_extent);
        }
        if (plan.by_pixels) {
            piece.channels = kVector<T>;
        }
        plan.in = Staging::room_for<T>(Staging::Neighbours::images, plan.images, plan.channels, in_rows, in_columns,
                                       zeros, std::min(in_columns, copied), piece, plan.warps * kWarp);
        // Twice, with zeros around, the second time one column further left: any two neighbours are an aligned pair in
        // one of the copies.
        plan.taps = Staging::room_for<T>(Staging::Neighbours::images, 2, plan.channels, plan.tap_rows,
                                         (plan.units + 1) * kUnit, 0, plan.tap_columns, Piece{}, plan.warps * kWarp)
                        .closer();
        plan.count(role, problem);
        return plan.bytes<T>() <= shared_bytes / (channels_last ? 2 : 4) - 1024 &&
               (plan.steps() == 1 || plan.tile_rows * plan.images <= kRows * (plan.warps / plan.channels));
    };
    while (!fits()) {
        int& too_many = plan.tile_rows > kRows ? plan.tile_rows
                        : plan.tap_rows > 4    ? plan.tap_rows
                        : plan.tiles > 1       ? plan.tiles
                                               : plan.channels;  // 16 rows of a tile and 4 of taps fit: this ends
        too_many = ceil_div(too_many, 2);
    }
    fill_with_images(plan.images, problem.images, in.image, fits);
    plan.by_image = Divisor(plan.images);
    plan.by_column = Divisor(plan.tile_columns);
    plan.stores_pairs = in_pieces && columns_at_once(out, map.x.out.first, map.x.outputs) > 1;
    return plan;
}

// sums[tile] += the rows that `row` and the other lanes point to, times the band of one kernel row.
template <int tiles, int units, typename T>
__device__ void add_products(float (&sums)[kTiles][4], const T* row, const T* band) {
    constexpr int read = round_up(tiles + units - 1, 2);
    uint32_t bands[units], inputs[read / 2][4];  // of units 2 i and 2 i + 1
#pragma unroll
    for (int u = 0; u < units; ++u) {
        bands[u] = *reinterpret_cast<const uint32_t*>(band + u * kUnit);
    }
#pragma unroll
    for (int i = 0; i < read / 2; ++i) {
        load_matrices(inputs[i], row + 2 * i * kUnit);
    }
#pragma unroll
    for (int tile = 0; tile < tiles; ++tile) {
        // Units that were loaded together are multiplied together, others alone.
#pragma unroll
        for (int u = 0; u < units; ++u) {
            const uint32_t (&in)[4] = inputs[(tile + u) / 2];
            const bool is_second = (tile + u) % 2 == 1;
            if (!is_second && u + 1 < units) {
                const uint32_t b[2] = {bands[u], bands[u + 1]};
                multiply_add<T>(sums[tile], in, b);
            } else if (!is_second || u == 0) {
                const uint32_t a[2] = {in[is_second * 2], in[is_second * 2 + 1]}, b[1] = {bands[u]};
                multiply_add<T>(sums[tile], a, b);
            }
        }
    }
}

// A lane has two neighbouring columns of two of the 16 rows, 8 apart, which are numbered from `first` on.
template <typename T>
__device__ void store(const Problem& problem, const Plan& plan, const PlaneMap& map, const Item& item, int first,
                      int channel, const float (&sums)[kTiles][4], const Planes<T>& out, const T* bias) {
    const int lane = thread_index() % kWarp;
    const float added = bias != nullptr ? static_cast<float>(bias[channel]) : 0.0f;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        int row = first + lane / 4 + half * 8;
        const int image = plan.by_image.split_off(row);
        if (item.image + image >= problem.images || row >= plan.tile_rows || item.y + row >= map.y.outputs) {
            continue;
        }
        T* const to = out.plane(item.image + image, channel) + map.y.out[item.y + row] * out.stride[1];
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
            if (tile >= plan.tiles) {
                break;
            }
            const int x = item.x + tile * kUnit + lane % 4 * 2;
            const Vector<T, 2> two{static_cast<T>(sums[tile][half * 2] + added),
                                   static_cast<T>(sums[tile][half * 2 + 1] + added)};
            if (plan.stores_pairs) {
                if (x < map.x.outputs) {
                    *reinterpret_cast<Vector<T, 2>*>(to + map.x.out[x]) = two;
                }
            } else {
#pragma unroll
                for (int c = 0; c < 2; ++c) {
                    if (x + c < map.x.outputs) {
                        to[map.x.out[x + c] * out.stride[2]] = two.at[c];
                    }
                }
            }
        }
    }
}

// The same where channels lie next to each other, which warps make: through shared memory, in which a pixel's channels
// become a vector.
template <typename T>
__device__ void store_pixels(const Problem& problem, const Plan& plan, const PlaneMap& map, const Item& item, int first,
                             int slot, const float (&sums)[kTiles][4], T* pixels, const Planes<T>& out, const T* bias) {
    constexpr int channels = kVector<T>;
    const int columns = plan.tile_columns;
    const int lane = thread_index() % kWarp;
    const float added = bias != nullptr ? static_cast<float>(bias[item.channel + slot]) : 0.0f;
    __syncthreads();  // the last ones have been read
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
        if (tile >= plan.tiles) {
            break;
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int row = lane / 4 + i / 2 * 8, column = tile * kUnit + lane % 4 * 2 + i % 2;
            pixels[row * pixel_pitch<T>(columns) + column * channels + slot] = static_cast<T>(sums[tile][i] + added);
        }
    }
    __syncthreads();
    for (int i = thread_index(); i < kRows * columns; i += static_cast<int>(blockDim.x)) {
        int row = i;
        const int column = plan.by_column.split_off(row), x = item.x + column;
        const T* const pixel = pixels + row * pixel_pitch<T>(columns) + column * channels;
        row += first;
        const int image = plan.by_image.split_off(row), y = item.y + row;
        if (item.image + image < problem.images && row < plan.tile_rows && y < map.y.outputs && x < map.x.outputs) {
            *reinterpret_cast<Vector<T>*>(out.plane(item.image + image, item.channel) + map.y.out[y] * out.stride[1] +
                                          map.x.out[x] * out.stride[2]) = load_vector(pixel);
        }
    }
}

template <bool by_pixels, int units, typename T>
__global__ void __launch_bounds__(kMostWarps* kWarp, 2)
    correlate_bands(Role role, Problem problem, Plan plan, Planes<const T> in, Planes<const T> kernel, Planes<T> out,
                    const T* bias) {
    T* const staged_in = shared_memory<T>();
    T* const zeros = staged_in + plan.in.entries();
    T* const staged_taps = zeros + plan.in.row();
    T* const pixels = staged_taps + plan.taps.entries();
    const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
    const int slot = warp % plan.channels;
    // When matrices are loaded, this lane points to a row, and there to one of two units.
    const int pointed = lane % kRows, pointed_column = lane / kRows * kUnit;
    // This lane's part of a band: rows 2 (lane % 4) and the next of column lane / 4.
    const int in_band = 2 * (lane % 4) - lane / 4 + kUnit - 1;
    const T* const own_taps = staged_taps + plan.taps.slot(in_band % 2, slot) + in_band;
    const int at_once = kRows * (plan.warps / plan.channels);

    for_each_item(static_cast<int>(plan.items()), [&](int index) {
        float sums[kTiles][4] = {};
        for (int number = 0; number < plan.steps(); ++number) {
            const Item item(plan, index);
            stage<by_pixels ? 2 : 0>(role, problem, plan, item, number, in, kernel, staged_in, plan.entries(),
                                     staged_taps, 2, kUnit - 1);
            const Step step(role, problem, plan, item, number);
            const PlaneMap map(role, problem, item.phase);
            const int offset = step.y.reach - step.y.first, staged = step.y.count, tap_rows = step.tap_rows(plan);
            // Of an item with several steps, a warp makes one matrix; else several, one after the other.
            for (int first = warp / plan.channels * kRows; first < plan.tile_rows * plan.images; first += at_once) {
                // The rows of this warp's matrix, and the one that this lane points to.
                const int first_row = plan.by_image.quotient(first);
                const int last_row = plan.by_image.quotient(first + kRows - 1);
                int row = first + pointed;
                const int image = plan.by_image.split_off(row);
                const T* const own_in = staged_in + plan.in.slot(image, slot) + pointed_column;
                // The staged row of the first tap of this lane's row. Taps at which no lane's row is staged are passed
                // over.
                const int above = offset + row, begin = std::max(-(offset + last_row), 0);
                dispatch_count<1, kTiles>(plan.tiles, [&]<int tiles>() {
                    for (int t = begin; t < tap_rows && offset + first_row + t < staged; ++t) {
                        const bool is_staged = above + t >= 0 && above + t < staged;
                        add_products<tiles, units>(
                            sums, is_staged ? own_in + (above + t) * plan.in.pitch() : zeros + pointed_column,
                            own_taps + t * plan.taps.pitch());
                    }
                });
                if (number + 1 == plan.steps()) {
                    if constexpr (by_pixels) {
                        store_pixels(problem, plan, map, item, first, slot, sums, pixels, out, bias);
                    } else if (item.channel + slot < problem.channels_made(role)) {
                        store(problem, plan, map, item, first, item.channel + slot, sums, out, bias);
                    }
#pragma unroll
                    for (float (&tile)[4] : sums) {
                        tile[0] = tile[1] = tile[2] = tile[3] = 0;
                    }
                }
            }
        }
    });
}

}  // namespace

template <typename T>
bool correlate_by_tensor_cores(Role role, const Problem& problem, bool channels_last, const Tensor& in,
                               const Tensor& kernel, const Tensor& out, const T* bias) {
    const Planes<const T> in_planes(in), kernel_planes = Planes<const T>(kernel).transposed();
    const Planes<T> out_planes(out);
    const Plan plan = make_plan<T>(role, problem, channels_last, in_planes, out_planes, most_shared_bytes(in));
    if (plan.items() > kMostItems) {
        return false;
    }
    const Launcher launch(in);
    bool has_tensor_cores = false;
    dispatch_count<1, kMostUnits>(plan.units, [&]<int units>() {
        const auto kernel_of = plan.by_pixels ? correlate_bands<true, units, T> : correlate_bands<false, units, T>;
        has_tensor_cores = compiled_for(kernel_of) >= 80;
        if (has_tensor_cores) {
            launch(kernel_of, plan.items(), plan.warps * kWarp, plan.bytes<T>(), role, problem, plan, in_planes,
                   kernel_planes, out_planes, bias);
        }
    });
    return has_tensor_cores;
}

template bool correlate_by_tensor_cores(Role, const Problem&, bool, const Tensor&, const Tensor&, const Tensor&,
                                        const Half*);
template bool correlate_by_tensor_cores(Role, const Problem&, bool, const Tensor&, const Tensor&, const Tensor&,
                                        const BFloat16*);

}  // namespace dcls::cuda
