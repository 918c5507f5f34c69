// Depthwise convolution in half types on tensor cores, accumulated in float32: output and gradient of the input.
//
// A row of 8 outputs is a row of inputs times a band matrix: B[i, x] = kernel[j, i - x] for kernel row j, 0 off the
// band. So a warp multiplies a matrix of 16 rows of input, shifted by j, with the band of kernel row j, for every j,
// and adds up: mma.m16n8k16, in steps of 8 columns. The 16 rows are output rows of one image or, where images are
// small, of several. A warp makes up to kTiles neighbouring tiles of 8 columns, which share the band. Of a
// multiplication with 17 taps a row, 17/24 is of use.
//
// A block copies the input that its warps' rows meet, and the kernel, to shared memory. Warps have different channels
// where channels lie next to each other, else different rows of a channel. Rows outside the input are read from a row
// of zeros. Bound by the tensor cores for wide rows; for narrow ones by shared memory.
//
// An input that is infinite or NaN also shows in outputs of its tile that none of its taps reaches, as 0 times it.
#include "../ptx.h"
#include "depthwise_maps.h"

namespace dcls::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kRows = 16;  // of a warp's matrices
constexpr int kUnit = 8;   // columns: of a tile, and of a step along the band
constexpr int kTiles = 8;  // of a warp
constexpr int kMostUnits = 5;
constexpr int kMostTaps = kMostUnits * kUnit - (kUnit - 1);  // whose band is that wide
constexpr int64_t kSharedBytes = 48 << 10;

// The shapes of a Problem; its extents fit in an int.
struct Shapes {
    AxisShape<int> y, x;
    int images, channels, multiplier;  // channels are those of the output
};

// How a block works.
struct Plan {
    bool channel_warps;                // its warps have different channels, else different rows
    int images, rows;                  // of a warp, together 16 at most
    int tiles;                         // of a warp
    int units;                         // that the band of a tile is wide
    int tap_rows, tap_columns;         // of a block of taps
    int in_rows, in_pitch, tap_pitch;  // rows stored of an image; strides of rows in shared memory

    __host__ __device__ int columns() const { return tiles * kUnit; }
    // Read in pairs of units.
    __host__ __device__ int read_columns() const { return (tiles + units) / 2 * 2 * kUnit; }
    __host__ __device__ int channels() const { return channel_warps ? kWarps : 1; }
    __host__ __device__ int row_groups() const { return channel_warps ? 1 : kWarps; }
    __host__ __device__ int warp_entries() const { return (images * in_rows + 1) * in_pitch; }
    __host__ __device__ int tap_entries() const { return tap_rows * tap_pitch; }
    int64_t bytes() const {
        return 2 * (static_cast<int64_t>(kWarps) * warp_entries() + int64_t{2} * channels() * tap_entries());
    }
};

template <Role role>
Plan make_plan(const Shapes& shapes, bool channels_last) {
    const AxisMap<int> y = axis_map<role>(shapes.y, 0), x = axis_map<role>(shapes.x, 0);  // no phase has more taps
    const int outputs = most_outputs<role>(shapes.y);
    Plan plan{};
    plan.channel_warps = channels_last;
    plan.rows = even_share(outputs, kRows);
    plan.images = outputs > plan.rows ? 1 : kRows / plan.rows;
    plan.tiles = even_share(ceil_div(most_outputs<role>(shapes.x), kUnit), kTiles);
    plan.tap_columns = even_share(x.taps, kMostTaps);
    plan.units = ceil_div(plan.tap_columns + kUnit - 1, kUnit);
    plan.tap_rows = std::min(y.taps, 1 << 12);
    plan.in_pitch = plan.read_columns() + kUnit;  // an odd number of units: rows start at different banks
    plan.tap_pitch = (plan.units + 1) * kUnit;
    for (;;) {
        plan.in_rows = std::min(plan.rows + plan.tap_rows - 1, ceil_div(y.in_extent, y.in.step));
        if (plan.bytes() <= kSharedBytes) {
            return plan;
        }
        plan.tap_rows = (plan.tap_rows + 1) / 2;  // 16 rows of 1 tap fit, so this ends
    }
}

// What a block makes, or a warp of it: some of the work's pieces in each direction.
template <Role role>
struct Work {
    const Shapes& shapes;
    const Plan& plan;

    __host__ __device__ int row_groups_of_image() const { return ceil_div(most_outputs<role>(shapes.y), plan.rows); }
    __host__ __device__ int row_groups() const { return ceil_div(shapes.images, plan.images) * row_groups_of_image(); }
    __host__ __device__ int row_blocks() const { return ceil_div(row_groups(), plan.row_groups()); }
    __host__ __device__ int channel_blocks() const { return ceil_div(shapes.channels, plan.channels()); }
    __host__ __device__ int column_blocks() const { return ceil_div(most_outputs<role>(shapes.x), plan.columns()); }
    __host__ __device__ int phases() const { return shapes.y.phases() * shapes.x.phases(); }
    // Phases that are outputs of their own; the others are added up.
    __host__ __device__ int out_phases() const { return role == Role::forward ? 1 : phases(); }
    __host__ __device__ int64_t items() const {
        return int64_t{1} * row_blocks() * channel_blocks() * out_phases() * column_blocks();
    }
};

// One item of it.
struct Item {
    int first_column, phase, first_channel, first_group;

    template <Role role>
    __device__ Item(const Work<role>& work, int64_t index) {
        first_column = static_cast<int>(index % work.column_blocks()) * work.plan.columns();
        index /= work.column_blocks();
        phase = static_cast<int>(index % work.out_phases());
        index /= work.out_phases();
        first_channel = static_cast<int>(index % work.channel_blocks()) * work.plan.channels();
        first_group = static_cast<int>(index / work.channel_blocks()) * work.plan.row_groups();
    }
};

// A warp's part of an item: rows [row, row + plan.rows) of plan.images images of a channel.
struct Rows {
    int channel, image, row;
    bool exist;

    template <Role role>
    __device__ Rows(const Work<role>& work, const Item& item, int warp)
        : channel(item.first_channel + (work.plan.channel_warps ? warp : 0)) {
        const int group = item.first_group + (work.plan.channel_warps ? 0 : warp);
        image = group / work.row_groups_of_image() * work.plan.images;
        row = group % work.row_groups_of_image() * work.plan.rows;
        exist = channel < work.shapes.channels && group < work.row_groups();
    }
};

// One term of the sum, at a block of taps.
struct Term {
    AxisMap<int> y, x;
    int number, tap_y, tap_x, tap_rows, tap_columns;

    template <Role role>
    __device__ Term(const Work<role>& work, int phase, int number_)
        : y(axis_map<role>(work.shapes.y, phase / work.shapes.x.phases())),
          x(axis_map<role>(work.shapes.x, phase % work.shapes.x.phases())),
          number(number_) {}

    __device__ void take_taps(const Plan& plan, int first_y, int first_x) {
        tap_y = first_y;
        tap_x = first_x;
        tap_rows = std::min(plan.tap_rows, y.taps - first_y);
        tap_columns = std::min(plan.tap_columns, x.taps - first_x);
    }

    // The input rows, counted as in AxisMap, that a warp's rows meet and that are inside the plane.
    __device__ int first_stored(const Rows& rows) const { return std::max(rows.row + tap_y, y.inside().begin); }
    __device__ int stored(const Plan& plan, const Rows& rows) const {
        const int end = std::min(rows.row + tap_y + plan.rows + tap_rows - 1, y.inside().end);
        return std::max(end - first_stored(rows), 0);
    }
};

// Copies the kernels of a block's channels: rows of taps with zeros around, twice, the second time one column further
// left, so that any two neighbours are an aligned pair in one of them.
template <Role role, typename T>
__device__ void load_taps(const Work<role>& work, const Item& item, const Term& term, const Planes<const T>& kernel,
                          T* to) {
    const Plan& plan = work.plan;
    for (int i = static_cast<int>(threadIdx.x); i < plan.channels() * 2 * plan.tap_entries(); i += kThreads) {
        const int column = i % plan.tap_pitch, row = i / plan.tap_pitch % plan.tap_rows;
        const int copy = i / plan.tap_entries() % 2, channel = item.first_channel + i / plan.tap_entries() / 2;
        const int tap = column + copy - (kUnit - 1);
        T value(0.0f);
        if (row < term.tap_rows && tap >= 0 && tap < term.tap_columns && channel < work.shapes.channels) {
            const int plane = role == Role::forward ? channel : channel * work.shapes.multiplier + term.number;
            value = kernel.plane(
                plane,
                0)[term.y.tap[term.tap_y + row] * kernel.stride[1] + term.x.tap[term.tap_x + tap] * kernel.stride[2]];
        }
        to[i] = value;
    }
}

// Copies the input of one warp's rows, and a row of zeros behind it; 32 threads, of which this is number `first`.
template <Role role, typename T>
__device__ void load_rows(const Work<role>& work, const Rows& rows, int first_column, const Term& term,
                          const Planes<const T>& in, int first, T* to) {
    const Plan& plan = work.plan;
    const int multiplier = work.shapes.multiplier;
    const int plane = role == Role::forward ? rows.channel / multiplier : rows.channel * multiplier + term.number;
    const int first_stored = term.first_stored(rows), stored = term.stored(plan, rows), columns = plan.read_columns();
    for (int line = 0; line < plan.images * stored; ++line) {
        const int image = line / stored, row = line % stored;
        const bool exists = rows.exist && rows.image + image < work.shapes.images;
        const T* const from =
            exists ? in.plane(rows.image + image, plane) + term.y.in[first_stored + row] * in.stride[1] : nullptr;
        T* const entries = to + (image * plan.in_rows + row) * plan.in_pitch;
        for (int column = first; column < columns; column += kWarp) {
            const int x = term.x.in[first_column + term.tap_x + column];
            entries[column] = exists && x >= 0 && x < term.x.in_extent ? from[x * in.stride[2]] : T(0.0f);
        }
    }
    for (int column = first; column < columns; column += kWarp) {
        to[plan.images * plan.in_rows * plan.in_pitch + column] = T(0.0f);
    }
}

// sums[tile] += the rows that `row` and the other lanes point to, times the band of one kernel row.
template <int units, typename T>
__device__ void add_products(float (&sums)[kTiles][4], int tiles, const T* row, const T* band) {
    uint32_t bands[units], inputs[kTiles + units][2];
#pragma unroll
    for (int u = 0; u < units; ++u) {
        bands[u] = *reinterpret_cast<const uint32_t*>(band + u * kUnit);
    }
#pragma unroll
    for (int i = 0; i < kTiles + units - 1; i += 2) {
        if (i < tiles + units - 1) {
            uint32_t four[4];
            load_matrices(four, row + i * kUnit);
            inputs[i][0] = four[0], inputs[i][1] = four[1];
            inputs[i + 1][0] = four[2], inputs[i + 1][1] = four[3];
        }
    }
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
        if (tile < tiles) {
#pragma unroll
            for (int u = 0; u + 1 < units; u += 2) {
                const uint32_t a[4] = {inputs[tile + u][0], inputs[tile + u][1], inputs[tile + u + 1][0],
                                       inputs[tile + u + 1][1]};
                const uint32_t b[2] = {bands[u], bands[u + 1]};
                multiply_add<T>(sums[tile], a, b);
            }
            if constexpr (units % 2 == 1) {
                const uint32_t b[1] = {bands[units - 1]};
                multiply_add<T>(sums[tile], inputs[tile + units - 1], b);
            }
        }
    }
}

// A lane has two neighbouring columns of two rows, 8 rows apart.
template <Role role, typename T>
__device__ void store(const Work<role>& work, const Item& item, const Rows& rows, const float (&sums)[kTiles][4],
                      const Planes<T>& out, const T* bias) {
    const Term term(work, item.phase, 0);
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const float added = bias != nullptr ? static_cast<float>(bias[rows.channel]) : 0.0f;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = lane / 4 + half * 8, image_of_rows = row / work.plan.rows;
        const int image = rows.image + image_of_rows, y = rows.row + row % work.plan.rows;
        if (image_of_rows >= work.plan.images || image >= work.shapes.images || y >= term.y.outputs) {
            continue;
        }
        T* const to = out.plane(image, rows.channel) + term.y.out[y] * out.stride[1];
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
            for (int c = 0; c < 2; ++c) {
                const int x = item.first_column + tile * kUnit + lane % 4 * 2 + c;
                if (tile < work.plan.tiles && x < term.x.outputs) {
                    to[term.x.out[x] * out.stride[2]] = static_cast<T>(sums[tile][half * 2 + c] + added);
                }
            }
        }
    }
}

template <Role role, int units, typename T>
__global__ void __launch_bounds__(kThreads, kFewestBlocks<T>)
    band_products(Shapes shapes, Plan plan, Planes<const T> in, Planes<const T> kernel, Planes<T> out, const T* bias) {
    T* const shared_in = shared_memory<T>();
    T* const shared_taps = shared_in + kWarps * plan.warp_entries();
    const Work<role> work{shapes, plan};
    const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp, lane = thread % kWarp;
    // Whose rows this thread copies: neighbouring threads copy what lies next to each other.
    const int copied_warp = plan.channel_warps ? thread % kWarps : warp;
    const int copied_first = plan.channel_warps ? thread / kWarps : lane;
    // The row of its warp that this lane points to when matrices are loaded.
    const int pointed_row = lane % kRows % plan.rows, pointed_image = lane % kRows / plan.rows;
    const T* const own_in = shared_in + warp * plan.warp_entries() + lane / kRows * kUnit;
    // This lane's part of a band: rows 2 (lane % 4) and the next of column lane / 4.
    const int in_band = 2 * (lane % 4) - lane / 4 + kUnit - 1;
    const T* const own_taps =
        shared_taps + in_band - in_band % 2 + ((plan.channel_warps ? warp * 2 : 0) + in_band % 2) * plan.tap_entries();

    for_each_item(work.items(), [&](int64_t index) {
        const Item item(work, index);
        const Rows rows(work, item, warp);
        float sums[kTiles][4] = {};
        const int terms = role == Role::forward ? work.phases() : shapes.multiplier;
        for (int number = 0; number < terms; ++number) {
            Term term(work, role == Role::forward ? number : item.phase, number);
            for (int tap_y = 0; tap_y < term.y.taps; tap_y += plan.tap_rows) {
                for (int tap_x = 0; tap_x < term.x.taps; tap_x += plan.tap_columns) {
                    term.take_taps(plan, tap_y, tap_x);
                    __syncthreads();  // the last taps have been read
                    load_taps(work, item, term, kernel, shared_taps);
                    load_rows(work, Rows(work, item, copied_warp), item.first_column, term, in, copied_first,
                              shared_in + copied_warp * plan.warp_entries());
                    __syncthreads();
                    const int first_met = rows.row + pointed_row + tap_y - term.first_stored(rows);
                    const int stored = pointed_image < plan.images ? term.stored(plan, rows) : 0;
                    for (int t = 0; t < term.tap_rows; ++t) {
                        const bool is_stored = first_met + t >= 0 && first_met + t < stored;
                        const int row = is_stored ? pointed_image * plan.in_rows + first_met + t  //
                                                  : plan.images * plan.in_rows;
                        add_products<units>(sums, plan.tiles, own_in + row * plan.in_pitch,
                                            own_taps + t * plan.tap_pitch);
                    }
                }
            }
        }
        if (rows.exist) {
            store(work, item, rows, sums, out, bias);
        }
    });
}

template <typename Body>
void dispatch_units(int units, const Body& body) {
    switch (units) {
        case 1:
            return body.template operator()<1>();
        case 2:
            return body.template operator()<2>();
        case 3:
            return body.template operator()<3>();
        case 4:
            return body.template operator()<4>();
        default:
            return body.template operator()<kMostUnits>();
    }
}

// Whether all that is computed of an axis fits in an int.
// Lines are followed up to some 128 entries past the last one that counts.
bool fits(const AxisShape<int64_t>& axis) {
    return axis.input + 2 * axis.padding + 128 * axis.stride < (int64_t{1} << 30);
}

AxisShape<int> narrow(const AxisShape<int64_t>& axis) {
    const auto as_int = [](int64_t value) { return static_cast<int>(value); };
    return {as_int(axis.input), as_int(axis.kernel), as_int(axis.output), as_int(axis.stride), as_int(axis.padding)};
}

}  // namespace

template <Role role, typename T>
bool correlate_by_tensor_cores(const Problem& problem, bool channels_last, const Tensor& in, const Tensor& kernel,
                               const Tensor& out, const PreparedBias& bias) {
    const int64_t channels = problem.channels * problem.multiplier;
    if (compute_capability(in) < 80 || !fits(problem.y) || !fits(problem.x) ||
        std::max(problem.images, channels) * most_outputs<role>(problem.y) >= (int64_t{1} << 30)) {
        return false;
    }
    const Shapes shapes{narrow(problem.y), narrow(problem.x), static_cast<int>(problem.images),
                        static_cast<int>(role == Role::forward ? channels : problem.channels),
                        static_cast<int>(problem.multiplier)};
    const Plan plan = make_plan<role>(shapes, channels_last);
    const Launcher launch(in);
    dispatch_units(plan.units, [&]<int units>() {
        launch(band_products<role, units, T>, Work<role>{shapes, plan}.items(), kThreads, plan.bytes(), shapes, plan,
               Planes<const T>(in), Planes<const T>(kernel), Planes<T>(out), bias.pointer<T>());
    });
    return true;
}

template bool correlate_by_tensor_cores<Role::forward, Half>(const Problem&, bool, const Tensor&, const Tensor&,
                                                             const Tensor&, const PreparedBias&);
template bool correlate_by_tensor_cores<Role::forward, BFloat16>(const Problem&, bool, const Tensor&, const Tensor&,
                                                                 const Tensor&, const PreparedBias&);
template bool correlate_by_tensor_cores<Role::grad_input, Half>(const Problem&, bool, const Tensor&, const Tensor&,
                                                                const Tensor&, const PreparedBias&);
template bool correlate_by_tensor_cores<Role::grad_input, BFloat16>(const Problem&, bool, const Tensor&, const Tensor&,
                                                                    const Tensor&, const PreparedBias&);

}  // namespace dcls::cuda
