// Depthwise convolution in float32 and float64: its output and the gradient of its input, as depthwise_maps.h has them.
//
// A thread makes a patch of kRows x kColumns outputs of a slot, in registers. It takes one row of the input after the
// other, kColumns + taps - 1 entries of it, and multiplies them by those rows of the kernel that meet them: for 4 x 14
// outputs and 17 taps a row, 952 multiply-adds, 17 pairs of inputs, 16 vectors of taps and 4 taps are loaded.
//
//     input                        outputs of a thread
//     . . . . . . . . . . . .      + + + + + + + +
//     = = = = = = = = = = = =      + + + + + + + +     row t of the input meets row t - j of the kernel
//     . . . . . . . . . . . .      + + + + + + + +     for output row j
//
// A block has threads_y x threads_x patches of each of its slots, which it stages with the kernels (staging.h).
// Neighbouring threads have neighbouring channels where those lie next to each other, else neighbouring columns, then
// images: the rows of input outside of the plane, which no thread visits, are then the same for most of a warp.
//
// Bound by the issue of multiply-adds: with 17 taps, they are 91% to 94% of the instructions of the loop over rows.
// Each output belongs to one thread: results are the same every time.
#include "correlate.h"

#include "../launch.h"

#include <numeric>

namespace dcls::cuda {
namespace {

constexpr int kMostThreads = 256;
constexpr int kMostVectors = 8;  // of a row of a block of taps
constexpr int kMostTapRows = 32;
// Of a multiprocessor, and what the kernel takes of it for a thread.
constexpr int kRegisters = 1 << 16, kRegistersOfThread = 128;

// Outputs of a thread: few rows need fewer loads, many fit small planes.
template <typename T, int rows, int columns>
struct Shape {
    using Entry = T;
    static constexpr int kRows = rows, kColumns = columns;
    static constexpr int kPiece = std::gcd(columns, kVector<T>);  // entries that are loaded or stored at once
    using Sums = T[rows][columns];
};

// How the work is cut.
struct Plan : CorrelatePlan {
    int threads_y, threads_x;  // patches of a slot
    bool stores_pieces;

    __host__ __device__ int entries() const { return in.entries() + taps.entries(); }
    __host__ __device__ int threads() const { return channels * images * threads_y * threads_x; }
};

template <typename S, typename T = S::Entry>
Plan make_plan(Role role, const Problem& problem, bool channels_last, const Planes<const T>& in, const Planes<T>& out,
               int64_t shared_bytes) {
    const PlaneMap map(role, problem, 0);  // no phase has more taps
    const int rows = most_outputs(role, problem.y), columns = most_outputs(role, problem.x);
    const int most_channels = most_channel_slots(role, problem);
    const int copied = ceil_div(map.x.in_extent, map.x.in.step);
    const bool in_pieces = problem.x.stride == 1;  // else the phases' rows start anywhere
    Plan plan{};
    plan.threads_x = std::min(std::max(ceil_div(columns, S::kColumns), 1), 16);
    plan.threads_y = std::min(std::max(ceil_div(rows, S::kRows), 1), 16);
    plan.channels = channels_last ? std::min(most_channels, 32 / static_cast<int>(sizeof(T))) : 1;  // a sector
    plan.images = 1;
    plan.tap_rows = even_share(map.y.taps, kMostTapRows);
    plan.tap_columns = even_share(map.x.taps, kMostVectors * kVector<T>);
    const auto bytes = [&] { return plan.entries() * static_cast<int64_t>(sizeof(T)); };
    const auto fits = [&] {
        plan.tile_rows = plan.threads_y * S::kRows;
        plan.tile_columns = plan.threads_x * S::kColumns;
        const int in_rows = std::min(plan.tile_rows + plan.tap_rows - 1, ceil_div(map.y.in_extent, map.y.in.step));
        const int in_columns = plan.tile_columns + (plan.tap_columns / kVector<T> + 1) * kVector<T>;
        const int zeros =
            in_pieces && plan.tile_columns >= columns && plan.tap_columns == map.x.taps ? map.x.inside().begin : 0;
        Piece piece;
        if (in_pieces && plan.tap_columns == map.x.taps) {
            piece.columns = columns_at_once(in, map.x.in.first, map.x.in_extent);
            while (plan.tile_columns % piece.columns != 0) {
                piece.columns /= 2;
            }
        }
        if (channels_last && problem.multiplier == 1) {
            piece.channels = channels_at_once(in, plan.channels, problem.channels);
        }
        plan.in = Staging::room_for<T>(Staging::Neighbours::channels, plan.images, plan.channels, in_rows, in_columns,
                                       zeros, std::min(in_columns, copied), piece, round_up(plan.threads(), kWarp));
        plan.taps =
            Staging::room_for<T>(Staging::Neighbours::channels, 1, plan.channels, plan.tap_rows, plan.tap_columns, 0,
                                 plan.tap_columns, Piece{}, round_up(plan.threads(), kWarp));
        return plan.threads() <= kMostThreads && bytes() <= shared_bytes / 2 - 1024;
    };
    while (!fits()) {
        int& too_many = plan.threads_y > 1   ? plan.threads_y
                        : plan.threads_x > 1 ? plan.threads_x
                        : plan.channels > 1  ? plan.channels
                        : plan.tap_rows > 1  ? plan.tap_rows
                                             : plan.tap_columns;  // a thread's patch of 1 tap fits: this ends
        too_many = ceil_div(too_many, 2);
    }
    // As many images as keep the most threads of a multiprocessor at work, and of few images several channels.
    const auto threads_at_work = [&] {
        const int whole = round_up(plan.threads(), kWarp);
        const int64_t blocks = std::min(shared_bytes / bytes(), int64_t{kRegisters} / (kRegistersOfThread * whole));
        return static_cast<double>(blocks * plan.threads()) * plan.threads() / whole;
    };
    const auto fill = [&](int& slots, int most) {
        int best = slots;
        double most_at_work = threads_at_work();
        for (slots *= 2; slots / 2 < most && slots * in.image < (1 << 30) && fits(); slots *= 2) {
            if (const double at_work = threads_at_work(); at_work >= most_at_work) {
                best = slots;
                most_at_work = at_work;
            }
        }
        slots = best;
        fits();
    };
    fill(plan.images, problem.images);
    if (!channels_last && plan.threads() < kWarp) {
        fill(plan.channels, std::min(most_channels, kWarp / plan.threads()));
    }
    plan.count(role, problem);
    plan.stores_pieces = in_pieces && columns_at_once(out, map.x.out.first, map.x.outputs) >= S::kPiece;
    return plan;
}

// Where in an item a thread's patch is; behind the tile's last row if it has none.
template <typename S>
struct Patch {
    int channel, image, row, column;

    __device__ explicit Patch(const Plan& plan) {
        int rest = thread_index();
        channel = rest % plan.channels;
        rest /= plan.channels;
        column = rest % plan.threads_x * S::kColumns;
        rest /= plan.threads_x;
        image = rest % plan.images;
        row = rest / plan.images * S::kRows;
    }
};

// sums[j][c] += row t - j of the kernel times a row of input, for each output row j that has such a row, or for all of
// them. A row has `vectors` vectors of taps and `more` taps.
template <typename S, bool all, int vectors, typename T>
__device__ void add_row(typename S::Sums& sums, const T* in, const T* taps, int pitch, int t, int tap_rows, int more) {
    constexpr int vector = kVector<T>;
    T segment[S::kColumns + (vectors + 1) * vector];
#pragma unroll
    for (int i = 0; i < S::kColumns + (vectors + 1) * vector; i += S::kPiece) {
        const auto piece = load_vector<S::kPiece>(in + i);
#pragma unroll
        for (int k = 0; k < S::kPiece; ++k) {
            segment[i + k] = piece.at[k];
        }
    }
    const auto add_tap = [&](T(&row)[S::kColumns], T tap, int i) {
#pragma unroll
        for (int c = 0; c < S::kColumns; ++c) {
            row[c] += tap * segment[c + i];
        }
    };
    const auto has_row = [&](int j) { return all || (t >= j && t - j < tap_rows); };  // the same for all threads
#pragma unroll
    for (int j = 0; j < S::kRows; ++j) {
        if (has_row(j)) {
#pragma unroll
            for (int v = 0; v < vectors; ++v) {
                const Vector<T> tap = load_vector(taps + (t - j) * pitch + v * vector);
#pragma unroll
                for (int k = 0; k < vector; ++k) {
                    add_tap(sums[j], tap.at[k], v * vector + k);
                }
            }
        }
    }
    // Not more than there are: 0 times a NaN or an infinity that no tap meets would be NaN.
#pragma unroll
    for (int k = 0; k < vector - 1; ++k) {
        if (k >= more) {
            break;
        }
#pragma unroll
        for (int j = 0; j < S::kRows; ++j) {
            if (has_row(j)) {
                add_tap(sums[j], taps[(t - j) * pitch + vectors * vector + k], vectors * vector + k);
            }
        }
    }
}

template <typename S, typename T>
__device__ void store(Role role, const Problem& problem, const Plan& plan, int index, const Patch<S>& patch,
                      const typename S::Sums& sums, const Planes<T>& out, const T* bias) {
    const Item item(plan, index);
    const PlaneMap map(role, problem, item.phase);
    const int channel = item.channel + patch.channel, image = item.image + patch.image;
    if (channel >= problem.channels_made(role) || image >= problem.images || patch.row >= plan.tile_rows) {
        return;
    }
    T* const plane = out.plane(image, channel);
    const T added = bias != nullptr ? bias[channel] : T(0);
#pragma unroll
    for (int j = 0; j < S::kRows; ++j) {
        const int y = item.y + patch.row + j;
        if (y >= map.y.outputs) {
            continue;
        }
        T* const row = plane + map.y.out[y] * out.stride[1];
        if (plan.stores_pieces) {
#pragma unroll
            for (int c = 0; c < S::kColumns; c += S::kPiece) {
                Vector<T, S::kPiece> piece;
#pragma unroll
                for (int k = 0; k < S::kPiece; ++k) {
                    piece.at[k] = sums[j][c + k] + added;
                }
                const int x = item.x + patch.column + c;
                if (x < map.x.outputs) {
                    *reinterpret_cast<Vector<T, S::kPiece>*>(row + map.x.out[x]) = piece;
                }
            }
        } else {
#pragma unroll
            for (int c = 0; c < S::kColumns; ++c) {
                const int x = item.x + patch.column + c;
                if (x < map.x.outputs) {
                    row[map.x.out[x] * out.stride[2]] = sums[j][c] + added;
                }
            }
        }
    }
}

template <typename S, int vectors, typename T>
__global__ void __launch_bounds__(kMostThreads, vectors <= 5 ? 2 : 1)
    correlate_patches(Role role, Problem problem, Plan plan, Planes<const T> in, Planes<const T> kernel, Planes<T> out,
                      const T* bias) {
    T* const staged_in = shared_memory<T>();
    T* const staged_taps = staged_in + plan.in.entries();
    const Patch<S> patch(plan);
    const T* const own_in = staged_in + plan.in.slot(patch.image, patch.channel) + patch.column;
    const T* const own_taps = staged_taps + plan.taps.slot(0, patch.channel);

    for_each_item(static_cast<int>(plan.items()), [&](int index) {
        typename S::Sums sums = {};
        for (int number = 0; number < plan.steps(); ++number) {
            stage<2>(role, problem, plan, Item(plan, opaque(index)), number, in, kernel, staged_in, plan.entries(),
                     staged_taps, 1, 0);
            const Item item(plan, index);
            const Step step(role, problem, plan, item, number);
            const int tap_rows = step.tap_rows(plan), more = plan.tap_columns % kVector<T>;
            // The staged row of the first output's first tap.
            const int above = step.y.reach + patch.row - step.y.first;
            for (int t = 0; t < tap_rows + S::kRows - 1; ++t) {
                if (above + t < 0 || above + t >= step.y.count) {
                    continue;
                }
                const T* const row = own_in + (above + t) * plan.in.pitch();
                if (t >= S::kRows - 1 && t < tap_rows) {
                    add_row<S, true, vectors>(sums, row, own_taps, plan.taps.pitch(), t, tap_rows, more);
                } else {
                    add_row<S, false, vectors>(sums, row, own_taps, plan.taps.pitch(), t, tap_rows, more);
                }
            }
        }
        store(role, problem, plan, opaque(index), patch, sums, out, bias);
    });
}

template <typename S, typename T = S::Entry>
bool correlate_in(Role role, const Problem& problem, bool channels_last, const Tensor& in, const Tensor& kernel,
                  const Tensor& out, const T* bias) {
    const Planes<const T> in_planes(in), kernel_planes = Planes<const T>(kernel).transposed();
    const Planes<T> out_planes(out);
    const Plan plan = make_plan<S>(role, problem, channels_last, in_planes, out_planes, most_shared_bytes(in));
    if (plan.items() > kMostItems) {
        return false;
    }
    const Launcher launch(in);
    dispatch_count<0, kMostVectors>(plan.tap_columns / kVector<T>, [&]<int vectors>() {
        launch(correlate_patches<S, vectors, T>, plan.items(), round_up(plan.threads(), kWarp),
               plan.entries() * static_cast<int64_t>(sizeof(T)), role, problem, plan, in_planes, kernel_planes,
               out_planes, bias);
    });
    return true;
}

// The outputs that threads make of each plane, those that do not exist included.
template <typename S>
int64_t outputs_made(Role role, const Problem& problem) {
    return int64_t{1} * round_up(most_outputs(role, problem.y), S::kRows) *
           round_up(most_outputs(role, problem.x), S::kColumns);
}

}  // namespace

template <>
bool correlate(Role role, const Problem& problem, bool channels_last, const Tensor& in, const Tensor& kernel,
               const Tensor& out, const float* bias) {
    using Wide = Shape<float, 4, 14>;
    using Narrow = Shape<float, 7, 8>;
    const bool is_wide = outputs_made<Wide>(role, problem) <= outputs_made<Narrow>(role, problem);
    return (is_wide ? correlate_in<Wide> : correlate_in<Narrow>)(role, problem, channels_last, in, kernel, out, bias);
}

template <>
bool correlate(Role role, const Problem& problem, bool channels_last, const Tensor& in, const Tensor& kernel,
               const Tensor& out, const double* bias) {
    return correlate_in<Shape<double, 4, 4>>(role, problem, channels_last, in, kernel, out, bias);
}

}  // namespace dcls::cuda
