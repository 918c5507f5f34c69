// Large-kernel depthwise convolution on CUDA: one kernel for output and gradients, as depthwise_maps.h has them.
// depthwise_tensor_cores.cu takes the output and the gradient of the input in half types.
//
// A block makes a tile of one or several output planes ("slots": images of a channel, which share the kernel, or, where
// channels lie next to each other, channels). It copies a block of taps and the part of the input that they meet to
// shared memory, zeros where the input is padded. A thread keeps 8 rows x 4 columns of output in registers; it takes a
// row of input 4 columns at a time, and multiplies them by the taps of all its 8 output rows: per 4 taps and row, a
// vector of input and up to 8 of taps are loaded for 128 multiply-adds. Bound by multiply-adds where slots share the
// kernel, else by shared memory.
//
// Each output belongs to one thread, and gradients of kernels are summed over chunks of images that depend on shapes
// only: results are the same every time.
#include "depthwise_conv2d.h"

#include "../../aten_convolution.h"
#include "../ptx.h"
#include "../tuning.h"
#include "depthwise_maps.h"

namespace dcls::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kRows = 8, kColumns = 4;  // outputs of a thread
constexpr int kMostTaps = 32;           // of a block of taps, along an axis
constexpr int64_t kSharedBytes = 48 << 10;

// How a block works.
struct Plan {
    int threads_y, threads_x, slots;
    bool channel_slots;         // else they are images
    bool slots_fastest;         // neighbouring threads take neighbouring slots, not neighbouring columns
    int tap_rows, tap_columns;  // of a block of taps
    // Rows, and strides of rows and slots, in shared memory. Vectors of 16 bytes start at every fourth column.
    int in_rows, in_pitch, in_slot, tap_pitch, tap_slot;

    __host__ __device__ int tile_rows() const { return threads_y * kRows; }
    __host__ __device__ int tile_columns() const { return threads_x * kColumns; }
    // Slots that are channels have kernels of their own.
    __host__ __device__ int tap_slots() const { return channel_slots ? slots : 1; }
    int entries() const { return slots * in_slot + tap_slots() * tap_slot; }
};

int whole_vectors(int columns) { return (columns + 3) / 4 * 4; }

// Threads of neighbouring slots then read from different banks.
int odd_vectors(int entries) { return entries / 4 % 2 == 1 ? entries : entries + 4; }

// How much work there is. Output planes are numbered (image or chunk of images, channel).
template <Role role>
struct Work {
    const Problem& problem;
    const Plan& plan;

    __host__ __device__ int64_t channels() const {
        return role == Role::grad_input ? problem.channels : problem.channels * problem.multiplier;
    }
    __host__ __device__ int64_t images() const {
        return role == Role::grad_kernel ? ceil_div(problem.images, problem.chunk) : problem.images;
    }
    __host__ __device__ int64_t slots() const { return plan.channel_slots ? channels() : images(); }
    __host__ __device__ int64_t slot_groups() const { return ceil_div(slots(), plan.slots); }
    __host__ __device__ int64_t planes() const { return slot_groups() * (plan.channel_slots ? images() : channels()); }
    __host__ __device__ int64_t phases() const { return problem.y.phases() * problem.x.phases(); }
    // Phases that are outputs of their own; the others are added up.
    __host__ __device__ int64_t out_phases() const { return role == Role::forward ? 1 : phases(); }
    __host__ __device__ int64_t tiles_y() const { return ceil_div(most_outputs<role>(problem.y), plan.tile_rows()); }
    __host__ __device__ int64_t tiles_x() const { return ceil_div(most_outputs<role>(problem.x), plan.tile_columns()); }
    __host__ __device__ int64_t items() const { return planes() * out_phases() * tiles_y() * tiles_x(); }
};

template <Role role>
Plan make_plan(const Problem& problem, bool channels_last, int64_t entry_bytes) {
    const AxisMap<int64_t> y = axis_map<role, int64_t>(problem.y, 0),
                           x = axis_map<role, int64_t>(problem.x, 0);  // no phase has more taps
    Plan plan{};
    plan.channel_slots = role == Role::grad_kernel || channels_last;
    plan.slots_fastest = channels_last;
    const int64_t most_slots = std::max<int64_t>(Work<role>{problem, plan}.slots(), 1);
    // In channels_last tensors, 8 channels are read in one piece.
    const int fewest_slots = channels_last ? static_cast<int>(std::min<int64_t>(8, most_slots)) : 1;
    const int64_t threads = kThreads / fewest_slots;
    plan.threads_x =
        static_cast<int>(std::min({ceil_div(most_outputs<role>(problem.x), kColumns), threads, int64_t{16}}));
    plan.threads_y =
        static_cast<int>(std::min(ceil_div(most_outputs<role>(problem.y), kRows), threads / plan.threads_x));
    plan.slots = static_cast<int>(std::min<int64_t>(most_slots, kThreads / (plan.threads_y * plan.threads_x)));
    plan.tap_rows = even_share(y.taps, kMostTaps);
    plan.tap_columns = even_share(x.taps, kMostTaps);
    const int64_t valid_rows = ceil_div(y.in_extent, y.in.step);
    for (;;) {
        plan.in_rows = static_cast<int>(std::min<int64_t>(plan.tile_rows() + plan.tap_rows - 1, valid_rows));
        plan.in_pitch = plan.tile_columns() + whole_vectors(plan.tap_columns);
        plan.in_slot = odd_vectors(plan.in_rows * plan.in_pitch);
        plan.tap_pitch = whole_vectors(plan.tap_columns);
        plan.tap_slot = odd_vectors(plan.tap_rows * plan.tap_pitch);
        if (plan.entries() * entry_bytes <= kSharedBytes) {
            return plan;
        }
        // The tile of one thread and 32 x 32 taps fit, so this ends.
        int& too_large = plan.tap_rows > 8           ? plan.tap_rows
                         : plan.tap_columns > 16     ? plan.tap_columns
                         : plan.slots > fewest_slots ? plan.slots
                         : plan.threads_y > 1        ? plan.threads_y
                         : plan.threads_x > 1        ? plan.threads_x
                                                     : plan.slots;
        too_large = (too_large + 1) / 2;
    }
}

template <typename C>
struct alignas(16) Four {
    C at[4];
};

template <typename C>
__device__ Four<C> load_four(const C* from) {
    return *reinterpret_cast<const Four<C>*>(from);
}

// Copies rows x columns entries of some planes to shared memory: entries that `row` and `column` name, 0 where a column
// is outside of the plane. Neighbouring threads copy what lies next to each other.
template <typename T, typename PlaneOf>
__device__ void load_maps(Compute<T>* to, int pitch, int slot_pitch, int slots, int rows, int columns,
                          const Line<int64_t>& row, const Line<int64_t>& column, int64_t width,
                          const Planes<const T>& planes, bool slots_fastest, const PlaneOf& plane_of) {
    const int thread = static_cast<int>(threadIdx.x);
    const auto copy_row = [&](int slot, int r, int first, int step) {
        const T* const from = plane_of(slot) + row[r] * planes.stride[1];
        Compute<T>* const entries = to + slot * slot_pitch + r * pitch;
        for (int c = first; c < columns; c += step) {
            const int64_t x = column[c];
            const bool valid = x >= 0 && x < width;
            if constexpr (std::is_same_v<T, Compute<T>>) {
                copy_async(entries + c, from + (valid ? x * planes.stride[2] : 0), valid);
            } else {
                entries[c] = valid ? static_cast<float>(from[x * planes.stride[2]]) : 0.0f;
            }
        }
    };
    if (slots_fastest) {
        const int threads_of_slot = kThreads / slots;
        for (int r = 0; thread / slots < threads_of_slot && r < rows; ++r) {
            copy_row(thread % slots, r, thread / slots, threads_of_slot);
        }
    } else {
        for (int line = thread / kWarp; line < slots * rows; line += kThreads / kWarp) {
            copy_row(line / rows, line % rows, thread % kWarp, kWarp);
        }
    }
}

// sums[j][c] += kernel row * input row, for output row j at kernel row t - j. `in` is the input row from the first
// output's first tap on.
template <typename C>
__device__ void add_row(C (&sums)[kRows][kColumns], const C* in, const C* taps, int tap_pitch, int t, int tap_rows,
                        int tap_columns) {
    Four<C> left = load_four(in);
    for (int i = 0; i < tap_columns; i += 4) {
        const Four<C> right = load_four(in + i + 4);
        const C segment[8] = {left.at[0],  left.at[1],  left.at[2],  left.at[3],
                              right.at[0], right.at[1], right.at[2], right.at[3]};
        const int count = tap_columns - i;  // not more: 0 times a NaN or an infinity that no tap meets would be NaN
#pragma unroll
        for (int j = 0; j < kRows; ++j) {
            if (t - j >= 0 && t - j < tap_rows) {  // the same for all threads
                const Four<C> tap = load_four(taps + (t - j) * tap_pitch + i);
#pragma unroll
                for (int k = 0; k < 4; ++k) {
                    if (k < count) {
#pragma unroll
                        for (int c = 0; c < kColumns; ++c) {
                            sums[j][c] += tap.at[k] * segment[c + k];
                        }
                    }
                }
            }
        }
        left = right;
    }
}

// One item of the work: a tile of one phase's outputs, in some slots.
template <Role role>
struct Item {
    int64_t tile_y, tile_x, phase, first_image, first_channel;
    int slots;
    bool channel_slots;

    __device__ Item(const Work<role>& work, int64_t index) : channel_slots(work.plan.channel_slots) {
        tile_x = index % work.tiles_x() * work.plan.tile_columns();
        index /= work.tiles_x();
        tile_y = index % work.tiles_y() * work.plan.tile_rows();
        index /= work.tiles_y();
        phase = index % work.out_phases();
        index /= work.out_phases();
        const int64_t first_slot = index % work.slot_groups() * work.plan.slots, other = index / work.slot_groups();
        first_image = channel_slots ? other : first_slot;
        first_channel = channel_slots ? first_slot : other;
        slots = static_cast<int>(std::min<int64_t>(work.plan.slots, work.slots() - first_slot));
    }

    // The image and the channel of a slot's outputs.
    __device__ int64_t image(int slot) const { return first_image + (channel_slots ? 0 : slot); }
    __device__ int64_t channel(int slot) const { return first_channel + (channel_slots ? slot : 0); }

    __device__ int64_t terms(const Work<role>& work) const {
        const Problem& problem = work.problem;
        return role == Role::forward      ? work.phases()
               : role == Role::grad_input ? problem.multiplier
                                          : std::min(problem.chunk, problem.images - first_image * problem.chunk);
    }
};

// One term of the sum, at a block of taps.
template <Role role>
struct Term {
    AxisMap<int64_t> y, x;
    int64_t number, tap_y, tap_x;
    int tap_rows, tap_columns;
    // Rows of input, counted as in AxisMap, that the tile meets and that are inside the plane.
    int64_t first_row;
    int rows;

    __device__ Term(const Problem& problem, const Item<role>& item, int64_t number_) : number(number_) {
        const int64_t phase = role == Role::forward ? number : item.phase;
        y = axis_map<role>(problem.y, phase / problem.x.phases());
        x = axis_map<role>(problem.x, phase % problem.x.phases());
    }

    __device__ void take_taps(const Plan& plan, const Item<role>& item, int64_t first_y, int64_t first_x) {
        tap_y = first_y;
        tap_x = first_x;
        tap_rows = static_cast<int>(std::min<int64_t>(plan.tap_rows, y.taps - tap_y));
        tap_columns = static_cast<int>(std::min<int64_t>(plan.tap_columns, x.taps - tap_x));
        const int64_t reach = item.tile_y + tap_y;  // the first row that the tile meets
        const Steps<int64_t> inside = y.inside();
        first_row = std::max(reach, inside.begin);
        rows = static_cast<int>(
            std::max<int64_t>(std::min(reach + plan.tile_rows() + tap_rows - 1, inside.end) - first_row, 0));
    }

    // What a slot reads.
    template <typename T>
    __device__ const T* in_plane(const Problem& problem, const Item<role>& item, const Planes<const T>& in,
                                 int slot) const {
        const int64_t image = item.image(slot), channel = item.channel(slot);
        if constexpr (role == Role::forward) {
            return in.plane(image, channel / problem.multiplier);
        } else if constexpr (role == Role::grad_input) {
            return in.plane(image, channel * problem.multiplier + number);
        } else {
            return in.plane(image * problem.chunk + number, channel / problem.multiplier);
        }
    }
    template <typename T>
    __device__ const T* kernel_plane(const Problem& problem, const Item<role>& item, const Planes<const T>& kernel,
                                     int slot) const {
        const int64_t image = item.image(slot), channel = item.channel(slot);
        if constexpr (role == Role::forward) {
            return kernel.plane(channel, 0);
        } else if constexpr (role == Role::grad_input) {
            return kernel.plane(channel * problem.multiplier + number, 0);
        } else {
            return kernel.plane(image * problem.chunk + number, channel);
        }
    }
};

// Which outputs of an item a thread makes.
struct Thread {
    int slot, row, column;
    bool has_outputs;  // if its slot exists

    __device__ explicit Thread(const Plan& plan) {
        const int thread = static_cast<int>(threadIdx.x), threads_of_slot = plan.threads_y * plan.threads_x;
        const int in_slot = plan.slots_fastest ? thread / plan.slots : thread % threads_of_slot;
        slot = plan.slots_fastest ? thread % plan.slots : thread / threads_of_slot;
        row = in_slot / plan.threads_x * kRows;
        column = in_slot % plan.threads_x * kColumns;
        has_outputs = in_slot < threads_of_slot;
    }
};

// Copies what the item's slots read for a term to shared memory.
template <Role role, typename T>
__device__ void load(const Work<role>& work, const Item<role>& item, const Term<role>& term, const Planes<const T>& in,
                     const Planes<const T>& kernel, Compute<T>* shared_in, Compute<T>* shared_taps) {
    const Problem& problem = work.problem;
    const Plan& plan = work.plan;
    load_maps<T>(shared_in, plan.in_pitch, plan.in_slot, item.slots, term.rows, plan.in_pitch,
                 {term.y.in[term.first_row], term.y.in.step}, {term.x.in[item.tile_x + term.tap_x], term.x.in.step},
                 term.x.in_extent, in, plan.slots_fastest,
                 [&](int slot) { return term.in_plane(problem, item, in, slot); });
    load_maps<T>(shared_taps, plan.tap_pitch, plan.tap_slot, plan.channel_slots ? item.slots : 1, term.tap_rows,
                 term.tap_columns, {term.y.tap[term.tap_y], term.y.tap.step}, {term.x.tap[term.tap_x], term.x.tap.step},
                 role == Role::grad_kernel ? problem.x.output : problem.x.kernel, kernel, plan.slots_fastest,
                 [&](int slot) { return term.kernel_plane(problem, item, kernel, slot); });
}

template <Role role, typename T, typename Out>
__device__ void store(const Work<role>& work, const Item<role>& item, const Thread& thread,
                      const Compute<T> (&sums)[kRows][kColumns], const Planes<Out>& out, const T* bias) {
    const Problem& problem = work.problem;
    const AxisMap<int64_t> y = axis_map<role>(problem.y, item.phase / problem.x.phases());
    const AxisMap<int64_t> x = axis_map<role>(problem.x, item.phase % problem.x.phases());
    Out* const plane = out.plane(item.image(thread.slot), item.channel(thread.slot));
    const Compute<T> added = bias != nullptr ? static_cast<Compute<T>>(bias[item.channel(thread.slot)]) : Compute<T>(0);
#pragma unroll
    for (int j = 0; j < kRows; ++j) {
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
            const int64_t oy = item.tile_y + thread.row + j, ox = item.tile_x + thread.column + c;
            if (oy < y.outputs && ox < x.outputs) {
                plane[y.out[oy] * out.stride[1] + x.out[ox] * out.stride[2]] = static_cast<Out>(sums[j][c] + added);
            }
        }
    }
}

template <Role role, typename T, typename Out>
__global__ void __launch_bounds__(kThreads, kFewestBlocks<T>)
    correlate_planes(Problem problem, Plan plan, Planes<const T> in, Planes<const T> kernel, Planes<Out> out,
                     const T* bias) {
    using C = Compute<T>;
    C* const shared_in = shared_memory<C>();
    C* const shared_taps = shared_in + plan.slots * plan.in_slot;
    const Thread thread(plan);
    const C* const own_in = shared_in + thread.slot * plan.in_slot + thread.column;
    const C* const own_taps = shared_taps + (plan.channel_slots ? thread.slot : 0) * plan.tap_slot;

    const Work<role> work{problem, plan};
    for_each_item(work.items(), [&](int64_t index) {
        const Item<role> item(work, index);
        const bool has_outputs = thread.slot < item.slots && thread.has_outputs;
        C sums[kRows][kColumns] = {};
        const int64_t terms = item.terms(work);
        for (int64_t number = 0; number < terms; ++number) {
            Term<role> term(problem, item, number);
            for (int64_t tap_y = 0; tap_y < term.y.taps; tap_y += plan.tap_rows) {
                for (int64_t tap_x = 0; tap_x < term.x.taps; tap_x += plan.tap_columns) {
                    term.take_taps(plan, item, tap_y, tap_x);
                    __syncthreads();  // the last taps have been read
                    load(work, item, term, in, kernel, shared_in, shared_taps);
                    copy_wait();
                    __syncthreads();
                    if (has_outputs) {
                        // The stored row of the first output's first tap.
                        const int64_t above = item.tile_y + tap_y + thread.row - term.first_row;
                        for (int t = 0; t < term.tap_rows + kRows - 1; ++t) {
                            if (above + t >= 0 && above + t < term.rows) {
                                add_row(sums, own_in + (above + t) * plan.in_pitch, own_taps, plan.tap_pitch, t,
                                        term.tap_rows, term.tap_columns);
                            }
                        }
                    }
                }
            }
        }
        if (has_outputs) {
            store(work, item, thread, sums, out, bias);
        }
    });
}

template <Role role, typename T, typename Out>
void correlate(const Problem& problem, bool channels_last, const Tensor& in, const Tensor& kernel, const Tensor& out,
               const PreparedBias& bias) {
    if constexpr (role != Role::grad_kernel && sizeof(T) == 2) {
        if (correlate_by_tensor_cores<role, T>(problem, channels_last, in, kernel, out, bias)) {
            return;
        }
    }
    const Plan plan = make_plan<role>(problem, channels_last, sizeof(Compute<T>));
    const Launcher launch(in);
    launch(correlate_planes<role, T, Out>, Work<role>{problem, plan}.items(), kThreads,
           plan.entries() * static_cast<int64_t>(sizeof(Compute<T>)), problem, plan, Planes<const T>(in),
           Planes<const T>(kernel), Planes<Out>(out), bias.pointer<T>());
}

Problem make_problem(const Tensor& input, const Tensor& kernel, const ConvArguments& arguments) {
    const auto axis = [&](size_t a) {
        const auto at = static_cast<int64_t>(a) + 2;
        return AxisShape<int64_t>{input.size(at), kernel.size(at), arguments.batched_output_shape()[a + 2],
                                  arguments.stride[a], arguments.padding[a]};
    };
    const int64_t channels = input.size(1);
    return {axis(0), axis(1), input.size(0), channels, kernel.size(0) / channels, 1};
}

}  // namespace

Tensor depthwise_conv2d(const Tensor& input, const Tensor& kernel, const OptionalTensor& bias,
                        const ConvArguments& arguments) {
    const ScalarType dtype = input.scalar_type();
    const Tensor rounded_kernel = cast(kernel, dtype);
    const PreparedBias prepared_bias(bias, dtype);
    const Tensor output = empty_in_format_of(input, arguments.batched_output_shape());
    dispatch_dtype(dtype, [&]<typename T>() {
        correlate<Role::forward, T, T>(make_problem(input, kernel, arguments), is_channels_last(input), input,
                                       rounded_kernel, output, prepared_bias);
    });
    return output;
}

DenseGradients<Tensor> depthwise_conv2d_backward(const Tensor& grad_output, const Tensor& input, const Tensor& kernel,
                                                 const ConvArguments& arguments, const DenseGradients<bool>& wanted,
                                                 ScalarType grad_kernel_dtype) {
    const ScalarType dtype = input.scalar_type();
    const bool channels_last = is_channels_last(input);
    const PreparedBias no_bias(std::nullopt, dtype);
    Problem problem = make_problem(input, kernel, arguments);
    Tensor grad_input = not_computed(dtype, input), grad_kernel = not_computed(dtype, input);
    if (wanted.input) {
        grad_input = empty_in_format_of(input, sizes(input));
        if (problem.y.stride > problem.y.kernel || problem.x.stride > problem.x.kernel) {
            zero_(grad_input);  // inputs between kernels are in no phase
        }
        const Tensor rounded_kernel = cast(kernel, dtype);
        dispatch_dtype(dtype, [&]<typename T>() {
            correlate<Role::grad_input, T, T>(problem, channels_last, grad_output, rounded_kernel, grad_input, no_bias);
        });
    }
    if (wanted.kernel) {
        const int64_t chunks_wanted = ceil_div(kWantedBlocks, problem.channels * problem.multiplier);
        problem.chunk = std::max<int64_t>(1, ceil_div(problem.images, chunks_wanted));
        const Tensor chunks =
            empty({ceil_div(problem.images, problem.chunk), kernel.size(0), kernel.size(2), kernel.size(3)},
                  compute_dtype(input), input);
        dispatch_dtype(dtype, [&]<typename T>() {
            correlate<Role::grad_kernel, T, Compute<T>>(problem, channels_last, input, grad_output, chunks, no_bias);
        });
        grad_kernel = unsqueeze(cast(sum_over(chunks, {0}), grad_kernel_dtype), 1);
    }
    return {grad_input, grad_kernel, wanted.bias ? aten_bias_gradient(grad_output) : not_computed(dtype, input)};
}

}  // namespace dcls::cuda
