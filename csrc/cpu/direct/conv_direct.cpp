// Convolution on the CPU that visits only the taps that elements touch.
//
// A filter is the list of its touched taps (touched_taps.h). Lists are made when they are needed, and dropped: there
// never is a dense kernel. With p for pixels, and t for the taps of filter (o, i):
//
//     output[o][p] = sum over i and t of coefficient[o][i][t] * input[i][p + t]
//     grad_input[i][p] = sum over o and t of coefficient[o][i][t] * grad_output[o][p - t]
//     grad_coefficient[o][i][t] = sum over images and p of grad_output[o][p] * input[i][p + t]
//
// The first two are the same sum with the sides exchanged. A work item is a tile of pixels of some result channels, in
// a buffer of the thread's own. For each source channel it copies the window that the tile reads, zeros around the
// image included (boxes.h), and adds what every touched tap gives to every result channel (tap_loops.h). For the third,
// a work item is some filters, for which it visits all tiles in order; the gradients of a filter's taps are then
// contracted with its elements. Each result belongs to one work item and is summed in one order, so results do not
// depend on the number of threads. Of small groups in channels_last tensors an item takes several, whose channels share
// cache lines.
//
// Bound by the sums (inner_loops/tap_loops.h).
#include "conv_direct.h"

#include "../../memory_format.h"
#include "../bias_gradient.h"
#include "../parameter_gradients.h"
#include "touched_taps.h"

namespace dcls::cpu {
namespace {

// What a work item has at a time, so that it stays in a core's L2 cache: pixels of a tile, and entries of windows and
// of results where more than one fit (256 KiB of float32 each).
constexpr int64_t kTilePixels = 1 << 13;
constexpr int64_t kWindowEntries = 1 << 16;
constexpr int64_t kResultEntries = 1 << 16;
// Entries of a channel's window that fit the L1 cache.
constexpr int64_t kInterleavedEntries = 1 << 13;
// Source channels are read together until about so many taps are.
constexpr int64_t kTapsAtOnce = 32;

// Pixels that a tile keeps, however finely work is cut.
constexpr int64_t kSmallestTile = 512;

// Groups of an item: of a channels_last tensor as many as have a cache line's worth of channels, which are copied at
// once, as long as every thread gets an item of a group's `items`. Each group's sums are the same for any number.
int64_t groups_at_once(const Geometry& geometry, int64_t bundle, int64_t items, const Side& one, const Side& other) {
    if (bundle > 1 || !(one.planes.is_channels_last() || other.planes.is_channels_last())) {
        return 1;
    }
    const int64_t channels = std::max<int64_t>({one.channels, other.channels, 1});
    const auto threads = static_cast<int64_t>(torch::stable::get_num_threads());
    const int64_t most = std::min(geometry.groups, geometry.groups * items / threads);
    return std::max<int64_t>(std::min(kMostPlanes / channels, most), 1);
}

// What the workers of one call have in common.
template <typename T>
struct Problem {
    Geometry geometry;
    Filters filters;
    Parameters<T> parameters;
    Axes reach;
    int64_t bundle;  // images of one (boxes.h)

    Problem(const Convolution& convolution, const PreparedParameters& prepared)
        : geometry(convolution.geometry()),
          filters(convolution.kernel),
          parameters(prepared.pointers<T>()),
          reach(reach_of(geometry)),
          bundle(interleaves_images(geometry) ? inner_loops<T>().lanes : 1) {}

    int64_t bundles() const { return ceil_div(geometry.images, bundle); }
    // What a tile has of one along each axis.
    Axes entries_of(const Tile& tile) const { return {tile.size[0], tile.size[1], tile.size[2] * bundle}; }

    const T* weight(int64_t filter) const { return parameters.weight + filter * filters.kernel_count; }

    // Between channels of a group.
    int64_t filter(int64_t group, int64_t out_channel, int64_t in_channel) const {
        return (group * geometry.out_channels_per_group + out_channel) * geometry.in_channels_per_group + in_channel;
    }
};

// Tiles of pixels in phases, of at most `most` pixels: parts of a bundle, or as many whole ones as have windows that
// fit.
template <typename T>
Tiling make_tiles(const Problem<T>& problem, const Axes& extent, const Side& source, int64_t most) {
    const int64_t pixels = product(extent);
    if (pixels > 0 && pixels < most) {
        const int64_t window = box_layout<T>(1, problem.bundle, source.phase_count(), extent, problem.reach).bundle;
        most = pixels * std::clamp<int64_t>(kWindowEntries / window, 1, most / pixels);
    }
    return {0, problem.bundles(), extent, most};
}

// Channels of a side, out of those of a group, that fit `entries`.
int64_t channels_within(int64_t entries, const Layout& layout, const Side& side) {
    return std::clamp<int64_t>(entries / std::max<int64_t>(layout.channel, 1), 1, side.channels);
}

// The pixels that taps reach from a tile's.
Tile window_of(Tile tile, const Axes& reach, Pass pass) {
    for (int axis = 0; axis < kAxes; ++axis) {
        tile.begin[axis] -= pass == Pass::backward ? reach[axis] : 0;
        tile.size[axis] += reach[axis];
    }
    return tile;
}

// A sum over taps, and how it is cut into work items: a tile and a block of a group's result channels each.
template <typename T>
class Sum {
 public:
    const Problem<T>& problem;
    const Pass pass;
    const Side &source, &result;
    const Tiling tiles;
    const int64_t item_groups;
    int64_t window_channels, block_channels, blocks;  // sources read together, results of a block

    Sum(const Problem<T>& problem_, Pass pass_, const Side& source_, const Side& result_)
        : problem(problem_),
          pass(pass_),
          source(source_),
          result(result_),
          tiles(cut_into_tiles()),
          item_groups(groups_at_once(problem.geometry, problem.bundle, tiles.count(), source, result)) {
        if (item_groups > 1) {
            window_channels = source.channels;
            block_channels = result.channels;
        } else {
            choose_channels();
        }
        blocks = ceil_div(result.channels, block_channels);
    }

    int64_t items() const { return ceil_div(problem.geometry.groups, item_groups) * blocks * tiles.count(); }

    Tile tile(int64_t index) const {
        Tile tile = tiles[index];
        for (int axis = 0; axis < kAxes; ++axis) {
            tile.begin[axis] += first_pixel(axis);
        }
        return tile;
    }

 private:
    void choose_channels() {
        const int64_t bundles = tiles.images(), axes = kAxes - problem.geometry.first_axis;
        const int64_t taps = problem.geometry.kernel_count << axes;  // at least two an axis
        const Layout window = box_layout<T>(bundles, problem.bundle, source.phase_count(), tiles.size(), problem.reach);
        const Layout results = box_layout<T>(bundles, problem.bundle, result.phase_count(), tiles.size(), {});
        window_channels = std::min(channels_within(kWindowEntries, window, source), ceil_div(kTapsAtOnce, taps));
        const int64_t planes = problem.geometry.groups * tiles.count() * result.channels;
        block_channels = std::min(channels_within(kResultEntries, results, result), ceil_div(planes, kDirectItems));
        block_channels = std::max<int64_t>(block_channels, 1);
    }

    // The first pixel of phases that is not padding in all of them, and the last.
    int64_t first_pixel(int axis) const {
        const int64_t padding = result.padding[axis] - (result.phases[axis] - 1);
        return padding > 0 ? ceil_div(padding, result.stride[axis]) : 0;
    }
    int64_t last_pixel(int axis) const {
        return (result.padding[axis] + result.extent[axis] - 1) / result.stride[axis];
    }

    Tiling cut_into_tiles() const {
        Axes extent{};
        for (int axis = 0; axis < kAxes; ++axis) {
            extent[axis] = std::max<int64_t>(last_pixel(axis) + 1 - first_pixel(axis), 0);
        }
        const Geometry& geometry = problem.geometry;
        const int64_t phases = result.phase_count();
        const int64_t results = geometry.images * geometry.groups * result.channels * phases * product(extent);
        const int64_t most = std::clamp(results / kDirectItems, kSmallestTile, kTilePixels) / (phases * problem.bundle);
        return make_tiles(problem, extent, source, std::max<int64_t>(most, 1));
    }
};

template <Version version, typename T>
class SumWorker {
 public:
    // bias: of the results, or null.
    SumWorker(const Sum<T>& sum, const T* bias)
        : sum_(sum),
          bias_(bias),
          tables_(sum.problem.filters, sum.problem.parameters),
          window_(sum.source, sum.item_groups * sum.window_channels, sum.tiles.images(), sum.problem.bundle,
                  sum.tiles.size(), sum.problem.reach),
          results_(sum.result, sum.item_groups * sum.block_channels, sum.tiles.images(), sum.problem.bundle,
                   sum.tiles.size(), {}),
          taps_(sum.problem.geometry, sum.pass, is_forward() ? sum.source : sum.result, window_.layout(),
                sum.problem.bundle) {}

    void operator()(int64_t item) {
        const Tile tile = sum_.tile(item % sum_.tiles.count());
        if (tile.pixels() == 0) {
            return;
        }
        Block block{};
        block.group = item / (sum_.tiles.count() * sum_.blocks) * sum_.item_groups;
        block.groups = std::min(sum_.item_groups, sum_.problem.geometry.groups - block.group);
        block.first = item / sum_.tiles.count() % sum_.blocks * sum_.block_channels;
        block.channels = std::min(sum_.block_channels, sum_.result.channels - block.first);
        const int64_t first_result = block.group * sum_.result.channels + block.first;
        for (int64_t c = 0; c < block.all(); ++c) {
            results_.fill(c, bias_ != nullptr ? bias_[first_result + c] : T(0));
        }
        for (int64_t source = 0; source < sum_.source.channels; source += sum_.window_channels) {
            add_sources(source, std::min(sum_.window_channels, sum_.source.channels - source), tile, block);
        }
        results_.store(first_result, block.all(), tile);
    }

 private:
    // The results of an item: channels of some groups, from the first group and from the first channel of each on.
    struct Block {
        int64_t group, groups, first, channels;

        int64_t all() const { return groups * channels; }
    };

    bool is_forward() const { return sum_.pass == Pass::forward; }

    void add_sources(int64_t first, int64_t count, const Tile& tile, const Block& block) {
        window_.load(block.group * sum_.source.channels + first, block.groups * count,
                     window_of(tile, sum_.problem.reach, sum_.pass));
        for (int64_t c = 0; c < block.all(); ++c) {
            const int64_t group = c / block.channels, result = block.first + c % block.channels;
            taps_.clear();
            for (int64_t s = 0; s < count; ++s) {
                const int64_t source = first + s;
                const int64_t filter = is_forward() ? sum_.problem.filter(block.group + group, result, source)
                                                    : sum_.problem.filter(block.group + group, source, result);
                taps_.add(s, tables_.of(filter), sum_.problem.weight(filter));
            }
            taps_.drop_zeros();
            for (int64_t phase = 0; phase < sum_.result.phase_count(); ++phase) {
                loops_.add_taps({tile.images, sum_.problem.entries_of(tile), results_.at(c, phase),
                                 window_.at(group * count, 0), results_.layout(), window_.layout()},
                                taps_.list(phase));
            }
        }
    }

    const Sum<T>& sum_;
    const TapLoops<T>& loops_ = inner_loops<T>().taps;
    const T* bias_;
    FilterTables<version, T, false> tables_;
    Boxes<T> window_, results_;
    TouchedTaps<T> taps_;
};

template <Version version, typename T>
void sum_over_taps(const Problem<T>& problem, Pass pass, const Side& source, const Side& result, const T* bias) {
    const Sum<T> sum(problem, pass, source, result);
    for_each_item(sum.items(), [&] { return SumWorker<version, T>(sum, bias); });
}

// The gradients of filters' taps, and how they are cut into work items: a block of a group's in channels with a block
// of its out channels each.
template <typename T>
class FilterCorrelation {
 public:
    const Problem<T>& problem;
    const Side &input, &output;  // output: its gradient
    const Tiling tiles;
    const int64_t item_groups;
    int64_t block_ins, block_outs, in_blocks, out_blocks;  // of a block, and blocks

    FilterCorrelation(const Problem<T>& problem_, const Side& input_, const Side& output_)
        : problem(problem_),
          input(input_),
          output(output_),
          tiles(make_tiles(problem, problem.geometry.output, input, kTilePixels / problem.bundle)),
          item_groups(groups_at_once(problem.geometry, problem.bundle, 1, input, output)) {
        if (item_groups > 1) {
            block_ins = input.channels;
            block_outs = output.channels;
            count_blocks();
        } else {
            choose_channels();
        }
    }

    int64_t items() const { return ceil_div(problem.geometry.groups, item_groups) * in_blocks * out_blocks; }

 private:
    void choose_channels() {
        const int64_t bundles = tiles.images(), bundle = problem.bundle;
        const Layout windows = box_layout<T>(bundles, bundle, input.phase_count(), tiles.size(), problem.reach);
        block_ins = channels_within(kWindowEntries, windows, input);
        block_outs = channels_within(kResultEntries, box_layout<T>(bundles, bundle, 1, tiles.size(), {}), output);
        count_blocks();
        while (items() < kDirectItems && std::max(block_ins, block_outs) > 1) {
            int64_t& larger = block_ins > block_outs ? block_ins : block_outs;
            larger = ceil_div(larger, 2);
            count_blocks();
        }
    }

    void count_blocks() {
        in_blocks = ceil_div(input.channels, block_ins);
        out_blocks = ceil_div(output.channels, block_outs);
    }
};

template <Version version, typename T>
class CorrelationWorker {
 public:
    CorrelationWorker(const FilterCorrelation<T>& correlation, ParameterGradientWriter<T>& gradients)
        : correlation_(correlation),
          problem_(correlation.problem),
          gradients_(gradients),
          tables_(problem_.filters, problem_.parameters),
          window_(boxes(correlation.input, correlation.item_groups * correlation.block_ins, problem_.reach)),
          grad_output_(boxes(correlation.output, correlation.item_groups * correlation.block_outs, {})),
          touched_(problem_.geometry, Pass::forward, correlation.input, window_.layout(), problem_.bundle),
          contractor_(problem_.filters),
          grad_taps_(problem_.filters.tap_count) {}

    void operator()(int64_t item) {
        const FilterCorrelation<T>& c = correlation_;
        Block block{};
        block.group = item / (c.in_blocks * c.out_blocks) * c.item_groups;
        block.groups = std::min(c.item_groups, problem_.geometry.groups - block.group);
        block.first_in = item % c.in_blocks * c.block_ins;
        block.first_out = item / c.in_blocks % c.out_blocks * c.block_outs;
        block.ins = std::min(c.block_ins, c.input.channels - block.first_in);
        block.outs = std::min(c.block_outs, c.output.channels - block.first_out);
        taps_.clear();
        for (int64_t out = 0; out < block.all_outs(); ++out) {
            list_taps(block, out);
        }
        for (int64_t t = 0; t < c.tiles.count(); ++t) {
            if (const Tile tile = c.tiles[t]; tile.pixels() > 0) {
                visit(block, tile);
            }
        }
        for (int64_t out = 0; out < block.all_outs(); ++out) {
            contract(block, out);
        }
    }

 private:
    // The filters of an item: channels of some groups, from the first group and from the first channels of each on.
    struct Block {
        int64_t group, groups, first_in, ins, first_out, outs;

        int64_t all_outs() const { return groups * outs; }
    };

    Boxes<T> boxes(const Side& side, int64_t channels, const Axes& reach) const {
        return {side, channels, correlation_.tiles.images(), problem_.bundle, correlation_.tiles.size(), reach};
    }

    // Out channels are counted through the block's groups.
    int64_t filter(const Block& block, int64_t out, int64_t in) const {
        return problem_.filter(block.group + out / block.outs, block.first_out + out % block.outs, block.first_in + in);
    }

    // The taps that lead to an out channel.
    void list_taps(const Block& block, int64_t out) {
        touched_.clear();
        for (int64_t in = 0; in < block.ins; ++in) {
            const int64_t number = filter(block, out, in);
            touched_.add(in, tables_.of(number), problem_.weight(number));
        }
        taps_.push_back(touched_.gradients());
    }

    void visit(const Block& block, const Tile& tile) {
        const Geometry& geometry = problem_.geometry;
        window_.load(block.group * geometry.in_channels_per_group + block.first_in, block.groups * block.ins,
                     window_of(tile, problem_.reach, Pass::forward));
        grad_output_.load(block.group * geometry.out_channels_per_group + block.first_out, block.all_outs(), tile);
        for (int64_t out = 0; out < block.all_outs(); ++out) {
            loops_.correlate_taps(
                {tile.images, problem_.entries_of(tile), grad_output_.at(out, 0),
                 window_.at(out / block.outs * block.ins, 0), grad_output_.layout(), window_.layout()},
                taps_[out].list());
        }
    }

    // From the gradients of the taps of an out channel's filters to those of their elements.
    void contract(const Block& block, int64_t out) {
        taps_[out].for_each_filter(grad_taps_.data(), [&](int64_t in) {
            const int64_t number = filter(block, out, in);
            gradients_.template write<version>(number, grad_taps_.data(), tables_.of(number), contractor_);
        });
    }

    const FilterCorrelation<T>& correlation_;
    const TapLoops<T>& loops_ = inner_loops<T>().taps;
    const Problem<T>& problem_;
    ParameterGradientWriter<T>& gradients_;
    FilterTables<version, T, true> tables_;
    Boxes<T> window_, grad_output_;
    TouchedTaps<T> touched_;
    std::vector<TapGradients<T>> taps_;  // by out channel
    Contractor<version, T> contractor_;
    std::vector<T> grad_taps_;  // of a filter, 0 where no element touches it
};

}  // namespace

bool interleaves_images(const Geometry& geometry) {
    // Where this fills vectors at least half as well as rows of pixels do, because unaligned loads take twice as long,
    // and where a channel's window still fits the L1 cache.
    const int64_t lanes = inner_loops<float>().lanes, width = geometry.output[2];
    const auto filled = [&](int64_t count) {
        return static_cast<double>(count) / static_cast<double>(round_up(count, lanes));
    };
    const Axes reach = reach_of(geometry);
    int64_t window = lanes;
    for (int axis = 0; axis < kAxes; ++axis) {
        window *= geometry.output[axis] + reach[axis];
    }
    return geometry.images > 0 && width > 0 && 2 * filled(geometry.images) >= filled(width) &&
           window <= kInterleavedEntries;
}

Tensor conv_direct(const Convolution& convolution, const OptionalTensor& bias) {
    const PreparedParameters prepared = convolution.parameters();
    const PreparedBias prepared_bias(bias, prepared.dtype);
    const Tensor output = empty_in_format_of(convolution.input, convolution.arguments.batched_output_shape());
    dispatch(convolution.kernel.version, prepared.dtype, [&]<Version version, typename T>() {
        const Problem<T> problem(convolution, prepared);
        const Side input_side = Side::of_input(problem.geometry, convolution.input);
        const Side output_side = Side::of_output(problem.geometry, output);
        sum_over_taps<version, T>(problem, Pass::forward, input_side, output_side, prepared_bias.pointer<T>());
    });
    return output;
}

ConvGradients<Tensor> conv_direct_backward(const Tensor& grad_output, const Convolution& convolution,
                                           const ConvGradients<bool>& wanted) {
    const Tensor& input = convolution.input;
    const PreparedParameters prepared = convolution.parameters();
    Tensor grad_input =
        wanted.input ? empty_in_format_of(input, sizes(input)) : not_computed(input.scalar_type(), input);
    ParameterGradients<Tensor> grad_parameters = parameters_not_computed(convolution.weight);

    dispatch(convolution.kernel.version, prepared.dtype, [&]<Version version, typename T>() {
        const Problem<T> problem(convolution, prepared);
        const Side output_side = Side::of_output(problem.geometry, grad_output);
        if (wanted.input) {
            zero_(grad_input);  // no output pixel may have read some of it
            sum_over_taps<version, T>(problem, Pass::backward, output_side,
                                      Side::of_input(problem.geometry, grad_input), nullptr);
        }
        if (any(wanted.parameters)) {
            ParameterGradientWriter<T> gradients(problem.filters, prepared, wanted.parameters);
            const Side input_side = Side::of_input(problem.geometry, input);
            const FilterCorrelation<T> correlation(problem, input_side, output_side);
            for_each_item(correlation.items(), [&] { return CorrelationWorker<version, T>(correlation, gradients); });
            grad_parameters = gradients.take(convolution.weight.scalar_type());
        }
    });
    return {grad_input, grad_parameters, bias_gradient(wanted.bias, grad_output, prepared.dtype)};
}

}  // namespace dcls::cpu
