// Convolution with positions that all out channels share, on the CPU.
//
// Such an element reads the same interpolated input for every out channel. So each in channel is interpolated once per
// element and output pixel, which gives columns of (I/g) K values, one for every pixel, and one matrix product
//
//     output (O/g, pixels) = weight (O/g, (I/g) K) * columns ((I/g) K, pixels)
//
// does the rest, whatever the extent of the kernel. Columns exist for a tile of pixels and a block of in channels at a
// time, in a buffer of kTileEntries that stays in a core's L2 cache: a thread takes a tile, fills the buffer and
// multiplies. Forward, a work item is a tile of one group. Backward, it is a block of in channels of some images, whose
// tiles it visits in order: the gradients that several pixels add to are then one thread's alone. How the work is cut
// depends on shapes only, and partial sums are added in order, so results do not depend on the number of threads.
//
// Interpolation is in passes.h. Its factors are not normalised; the weight is instead.
//
// Bound by the matrix product where O/g is large, by the interpolation where it is small.
#include "conv_im2col.h"

#include "../../memory_format.h"
#include "../bias_gradient.h"
#include "../filter_factors.h"
#include "passes.h"

namespace dcls::cpu {
namespace {

// The limits on a tile's columns; dcls_ops.functional.conv2d tells users. 1 MiB of float32.
constexpr int64_t kTileEntries = 1 << 18;
constexpr int64_t kTilePixels = 1 << 10;

// How finely work is cut where there is enough of it: into this many items at least, as long as a tile keeps
// kSmallestTile pixels, and a block of in channels kSmallestBlock rows of columns.
constexpr int64_t kItems = 32;
constexpr int64_t kSmallestTile = 128;
constexpr int64_t kSmallestBlock = 64;

// Pixels of a tile, for that many tiles or more where there are pixels enough.
int64_t tile_pixels(const Geometry& geometry, int64_t wanted_tiles) {
    const int64_t pixels = geometry.images * product(geometry.output);
    const int64_t most =
        std::min(kTilePixels, kTileEntries / std::max(geometry.kernel_count, geometry.out_channels_per_group));
    return std::max<int64_t>(1, std::min(most, std::max(kSmallestTile, ceil_div(pixels, wanted_tiles))));
}

// In channels whose columns for a tile fit the buffer; all blocks of a group are about as large.
int64_t block_channels(const Geometry& geometry, int64_t pixels) {
    const int64_t entries = std::max<int64_t>(pixels, 1) * geometry.kernel_count;
    const int64_t most = std::clamp<int64_t>(kTileEntries / entries, 1, geometry.in_channels_per_group);
    return ceil_div(geometry.in_channels_per_group, ceil_div(geometry.in_channels_per_group, most));
}

// A rows x columns matrix in a buffer that may be larger.
Tensor matrix(Tensor buffer, int64_t rows, int64_t columns) {
    return view(narrow(buffer, 0, 0, rows * columns), {rows, columns});
}

Tensor block(Tensor matrix, int64_t first_row, int64_t rows, int64_t first_column, int64_t columns) {
    Tensor all_columns = narrow(matrix, 0, first_row, rows);
    return narrow(all_columns, 1, first_column, columns);
}

// What the workers of one call have in common.
template <typename T>
struct Problem {
    Geometry geometry;
    Filters filters;
    Parameters<T> parameters;
    Planes input;
    Tensor weight;           // (O, (I/g) K), each element's divided by its normalisation
    std::vector<T> inverse;  // 1 / normalisation, ((I/g) K)

    Tensor buffer(int64_t entries) const { return empty({entries}, weight.scalar_type(), weight); }

    // The weights of one group and a block of in channels.
    Tensor block_weight(int64_t group, int64_t first_channel, int64_t channels) const {
        return block(weight, group * geometry.out_channels_per_group, geometry.out_channels_per_group,
                     first_channel * geometry.kernel_count, channels * geometry.kernel_count);
    }
};

template <Version version, typename T>
Problem<T> make_problem(const Convolution& convolution, const PreparedParameters& prepared) {
    const Tensor& weight = prepared.weight;
    const Geometry geometry = convolution.geometry();
    const int64_t out_channels = weight.size(0), elements = geometry.elements();
    Problem<T> problem{geometry,
                       Filters(convolution.kernel),
                       prepared.pointers<T>(),
                       Planes(convolution.input),
                       empty({out_channels, elements}, weight.scalar_type(), weight),
                       std::vector<T>(elements)};
    FilterTables<version, T, false> tables(problem.filters, problem.parameters);
    for (int64_t i = 0; i < geometry.in_channels_per_group; ++i) {
        const auto& factors = tables.of(i);
        for (int64_t k = 0; k < geometry.kernel_count; ++k) {
            problem.inverse[i * geometry.kernel_count + k] = T(1) / normalisation<version>(sums(factors.element(k)));
        }
    }
    T* normalised = problem.weight.template mutable_data_ptr<T>();
    for (int64_t o = 0; o < out_channels; ++o) {
        for (int64_t e = 0; e < elements; ++e) {
            normalised[o * elements + e] = problem.parameters.weight[o * elements + e] * problem.inverse[e];
        }
    }
    return problem;
}

Tiling forward_tiles(const Geometry& geometry) {
    return {0, geometry.images, geometry.output, tile_pixels(geometry, ceil_div(kItems, geometry.groups))};
}

// Computes one tile of one group's output.
template <Version version, typename T>
class ForwardWorker {
 public:
    ForwardWorker(const Problem<T>& problem, const Tiling& tiles, const T* bias, const Planes& output)
        : problem_(problem),
          geometry_(problem.geometry),
          tiles_(tiles),
          bias_(bias),
          output_(output),
          block_channels_(block_channels(geometry_, tiles.max_pixels())),
          tables_(problem.filters, problem.parameters),
          window_(geometry_),
          passes_(geometry_),
          columns_(problem.buffer(block_channels_ * geometry_.kernel_count * tiles.max_pixels())),
          result_(problem.buffer(geometry_.out_channels_per_group * tiles.max_pixels())) {}

    void operator()(int64_t item) {
        const int64_t group = item / tiles_.count();
        const Tile tile = tiles_[item % tiles_.count()];
        const int64_t pixels = tile.pixels();
        if (pixels == 0) {
            return;
        }
        const Tensor result = matrix(result_, geometry_.out_channels_per_group, pixels);
        for (int64_t first = 0; first < geometry_.in_channels_per_group; first += block_channels_) {
            const int64_t channels = std::min(block_channels_, geometry_.in_channels_per_group - first);
            fill_columns(tile, group, first, channels);
            cpu_matrix_product(problem_.block_weight(group, first, channels),
                               matrix(columns_, channels * geometry_.kernel_count, pixels), first > 0, result);
        }
        T* row = result.template mutable_data_ptr<T>();
        for (int64_t o = group * geometry_.out_channels_per_group; o < (group + 1) * geometry_.out_channels_per_group;
             ++o, row += pixels) {
            for (int64_t p = 0; bias_ != nullptr && p < pixels; ++p) {
                row[p] += bias_[o];
            }
            output_.write(o, tile, row);
        }
    }

 private:
    void fill_columns(const Tile& tile, int64_t group, int64_t first, int64_t channels) {
        T* row = columns_.template mutable_data_ptr<T>();
        for (int64_t i = first; i < first + channels; ++i) {
            const auto& factors = tables_.of(i);
            if (window_.fit(tile, factors)) {
                window_.load(problem_.input, tile, group * geometry_.in_channels_per_group + i);
            }
            for (int64_t k = 0; k < geometry_.kernel_count; ++k, row += tile.pixels()) {
                passes_.begin(tile, factors.element(k));
                passes_.forward(window_, row);
            }
        }
    }

    const Problem<T>& problem_;
    const Geometry& geometry_;
    const Tiling& tiles_;
    const T* bias_;
    const Planes& output_;
    int64_t block_channels_;
    FilterTables<version, T, false> tables_;
    Window<T> window_;
    Passes<T> passes_;
    Tensor columns_, result_;
};

// Which gradients are asked for, and what they need.
struct Wanted {
    bool input, weight, contractions;

    explicit Wanted(const ConvGradients<bool>& wanted)
        : input(wanted.input),
          weight(wanted.parameters.weight),
          contractions(wanted.parameters.positions || wanted.parameters.sigma) {}

    bool columns() const { return weight || contractions; }
    bool grad_columns() const { return input || contractions; }
};

// How the backward pass is cut: into groups, blocks of in channels, and chunks of images.
struct Cut {
    int64_t max_pixels, channels, blocks, images, chunks;

    explicit Cut(const Geometry& geometry) : max_pixels(tile_pixels(geometry, 1)) {
        const int64_t wanted_blocks = ceil_div(kItems, geometry.groups * std::max<int64_t>(geometry.images, 1));
        const int64_t smallest = ceil_div(kSmallestBlock, geometry.kernel_count);
        channels = std::min(std::max(smallest, ceil_div(geometry.in_channels_per_group, wanted_blocks)),
                            block_channels(geometry, max_pixels));
        blocks = ceil_div(geometry.in_channels_per_group, channels);
        const int64_t wanted_chunks = std::max<int64_t>(1, kItems / (geometry.groups * blocks));
        images = ceil_div(geometry.images, wanted_chunks);
        chunks = images == 0 ? 0 : ceil_div(geometry.images, images);
    }
};

// What the chunks of images add to the gradients of parameters.
template <typename T>
struct ChunkSums {
    Tensor weight;                             // (chunks * O, (I/g) K), of the normalised weight
    std::vector<Contraction<T>> contractions;  // (chunks, groups, (I/g) K), of elements with a normalised weight

    ChunkSums(const Problem<T>& problem, const Cut& cut, const Wanted& wanted) {
        const Geometry& geometry = problem.geometry;
        const int64_t rows = cut.chunks * geometry.groups * geometry.out_channels_per_group;
        weight = matrix(problem.buffer(wanted.weight ? rows * geometry.elements() : 0), wanted.weight ? rows : 0,
                        geometry.elements());
        contractions.resize(cut.chunks * geometry.groups * geometry.elements());
    }
};

// Visits the tiles of one chunk of images for one block of a group's in channels. It alone adds to their gradients.
template <Version version, typename T>
class BackwardWorker {
 public:
    // grad_input: (N, I, *spatial), contiguous, or null.
    BackwardWorker(const Problem<T>& problem, const Cut& cut, const Wanted& wanted, const Planes& grad_output,
                   T* grad_input, ChunkSums<T>& sums)
        : problem_(problem),
          geometry_(problem.geometry),
          cut_(cut),
          wanted_(wanted),
          grad_output_(grad_output),
          grad_input_(grad_input),
          sums_(sums),
          tables_(problem.filters, problem.parameters),
          window_(geometry_),
          grad_window_(geometry_),
          passes_(geometry_),
          columns_(buffer(wanted.columns() ? cut.channels * geometry_.kernel_count : 0)),
          grad_columns_(buffer(wanted.grad_columns() ? cut.channels * geometry_.kernel_count : 0)),
          grad_(buffer(geometry_.out_channels_per_group)) {}

    void operator()(int64_t item) {
        group_ = item % geometry_.groups;
        block_ = item / geometry_.groups % cut_.blocks;
        chunk_ = item / (geometry_.groups * cut_.blocks);
        first_channel_ = block_ * cut_.channels;
        channels_ = std::min(cut_.channels, geometry_.in_channels_per_group - first_channel_);
        const int64_t first_image = chunk_ * cut_.images;
        const Tiling tiles(first_image, std::min(cut_.images, geometry_.images - first_image), geometry_.output,
                           cut_.max_pixels);
        for (int64_t t = 0; t < tiles.count(); ++t) {
            if (const Tile tile = tiles[t]; tile.pixels() > 0) {
                visit(tile, t == 0);
            }
        }
    }

 private:
    Tensor buffer(int64_t rows) const { return problem_.buffer(rows * cut_.max_pixels); }

    void visit(const Tile& tile, bool is_first) {
        const int64_t pixels = tile.pixels(), rows = channels_ * geometry_.kernel_count;
        load_grad_output(tile);
        const Tensor grad = matrix(grad_, geometry_.out_channels_per_group, pixels);
        if (wanted_.grad_columns()) {
            Tensor weight = problem_.block_weight(group_, first_channel_, channels_);
            cpu_matrix_product(transpose(weight, 0, 1), grad, false, matrix(grad_columns_, rows, pixels));
        }
        pass_back(tile);
        if (wanted_.weight) {
            const Tensor sum =
                block(sums_.weight, (chunk_ * geometry_.groups + group_) * geometry_.out_channels_per_group,
                      geometry_.out_channels_per_group, first_channel_ * geometry_.kernel_count, rows);
            Tensor columns = matrix(columns_, rows, pixels);
            cpu_matrix_product(grad, transpose(columns, 0, 1), !is_first, sum);
        }
    }

    void load_grad_output(const Tile& tile) {
        T* row = grad_.template mutable_data_ptr<T>();
        const int64_t pixels = tile.pixels();
        for (int64_t o = group_ * geometry_.out_channels_per_group; o < (group_ + 1) * geometry_.out_channels_per_group;
             ++o, row += pixels) {
            grad_output_.read(o, tile, row);
        }
    }

    // Fills the columns, and takes their gradient back to the input and the elements.
    void pass_back(const Tile& tile) {
        T* row = columns_.template mutable_data_ptr<T>();
        const T* grad_row = grad_columns_.template const_data_ptr<T>();
        for (int64_t i = first_channel_; i < first_channel_ + channels_; ++i) {
            const int64_t channel = group_ * geometry_.in_channels_per_group + i;
            const auto& factors = tables_.of(i);
            const bool is_touched = window_.fit(tile, factors);
            if (is_touched) {
                window_.load(problem_.input, tile, channel);
                grad_window_.fit(tile, factors);
                grad_window_.clear();
            }
            for (int64_t k = 0; k < geometry_.kernel_count; ++k, row += tile.pixels(), grad_row += tile.pixels()) {
                passes_.begin(tile, factors.element(k));
                if (wanted_.columns()) {
                    passes_.forward(window_, row);
                }
                if (wanted_.grad_columns()) {
                    const int64_t element =
                        (chunk_ * geometry_.groups + group_) * geometry_.elements() + i * geometry_.kernel_count + k;
                    passes_.backward(window_, grad_row, wanted_.input ? &grad_window_ : nullptr,
                                     wanted_.contractions ? &sums_.contractions[element] : nullptr);
                }
            }
            if (is_touched && wanted_.input) {
                grad_window_.add_to(grad_input_, tile, channel);
            }
        }
    }

    const Problem<T>& problem_;
    const Geometry& geometry_;
    const Cut& cut_;
    const Wanted& wanted_;
    const Planes& grad_output_;
    T* grad_input_;
    ChunkSums<T>& sums_;
    FilterTables<version, T, true> tables_;
    Window<T> window_, grad_window_;
    Passes<T> passes_;
    Tensor columns_, grad_columns_, grad_;
    int64_t group_ = 0, block_ = 0, chunk_ = 0, first_channel_ = 0, channels_ = 0;
};

// total[e] = scale(e) * the sum over chunks of chunks[chunk, e].
template <typename T, typename Scale>
void add_chunks(const T* chunks, int64_t count, const Tensor& total, const Scale& scale) {
    T* out = total.mutable_data_ptr<T>();
    for (int64_t e = 0; e < total.numel(); ++e) {
        T sum = 0;
        for (int64_t chunk = 0; chunk < count; ++chunk) {
            sum += chunks[chunk * total.numel() + e];
        }
        out[e] = sum * scale(e);
    }
}

// The gradients of positions and sigma (d, 1, I/g, K), either may be null.
template <Version version, typename T>
void add_contractions(const Problem<T>& problem, const std::vector<Contraction<T>>& contractions, T* grad_positions,
                      T* grad_sigma) {
    const Geometry& geometry = problem.geometry;
    const auto entries = static_cast<int64_t>(contractions.size());
    FilterTables<version, T, true> tables(problem.filters, problem.parameters);
    for (int64_t element = 0; element < geometry.elements(); ++element) {
        const int64_t k = element % geometry.kernel_count;
        const auto& factors = tables.of(element / geometry.kernel_count);
        Contraction<T> sum;
        for (int64_t at = element; at < entries; at += geometry.elements()) {
            sum.add(contractions[at], T(1));
        }
        for (int axis = geometry.first_axis; axis < kAxes; ++axis) {
            const AxisGradients<version, T> gradients(sum, sums(factors.element(k)), axis);
            const int64_t at = (axis - geometry.first_axis) * geometry.elements() + element;
            if (grad_positions != nullptr) {
                grad_positions[at] = gradients.position;
            }
            if (grad_sigma != nullptr) {
                grad_sigma[at] = gradients.sigma;
            }
        }
    }
}

}  // namespace

Axes im2col_tile(const Geometry& geometry) { return forward_tiles(geometry).size(); }

Tensor conv_im2col(const Convolution& convolution, const OptionalTensor& bias) {
    const PreparedParameters prepared = convolution.parameters();
    const PreparedBias prepared_bias(bias, prepared.dtype);
    const Tensor output = empty_in_format_of(convolution.input, convolution.arguments.batched_output_shape());
    const Planes output_planes(output);
    dispatch(convolution.kernel.version, prepared.dtype, [&]<Version version, typename T>() {
        const Problem<T> problem = make_problem<version, T>(convolution, prepared);
        const Tiling tiles = forward_tiles(problem.geometry);
        const T* bias_values = prepared_bias.pointer<T>();
        for_each_item(problem.geometry.groups * tiles.count(),
                      [&] { return ForwardWorker<version, T>(problem, tiles, bias_values, output_planes); });
    });
    return output;
}

ConvGradients<Tensor> conv_im2col_backward(const Tensor& grad_output, const Convolution& convolution,
                                           const ConvGradients<bool>& asked) {
    const auto& [input, weight, positions, sigma, kernel, arguments] = convolution;
    const PreparedParameters prepared = convolution.parameters();
    const Wanted wanted(asked);
    Tensor grad_input = empty_if(wanted.input, sizes(input), prepared.dtype, weight);
    zero_(grad_input);  // tiles add to it
    const Tensor grad_weight = empty_if(wanted.weight, sizes(weight), prepared.dtype, weight);
    const Tensor grad_positions = empty_if(asked.parameters.positions, sizes(positions), prepared.dtype, weight);
    const Tensor grad_sigma = empty_if(asked.parameters.sigma, sizes(positions), prepared.dtype, weight);
    const Planes grad_output_planes(grad_output);

    dispatch(kernel.version, prepared.dtype, [&]<Version version, typename T>() {
        const auto pointer = [](bool is_wanted, const Tensor& tensor) {
            return is_wanted ? tensor.mutable_data_ptr<T>() : nullptr;
        };
        const Problem<T> problem = make_problem<version, T>(convolution, prepared);
        const Cut cut(problem.geometry);
        ChunkSums<T> sums(problem, cut, wanted);
        for_each_item(problem.geometry.groups * cut.blocks * cut.chunks, [&] {
            return BackwardWorker<version, T>(problem, cut, wanted, grad_output_planes,
                                              pointer(wanted.input, grad_input), sums);
        });
        if (wanted.weight) {
            add_chunks(sums.weight.template const_data_ptr<T>(), cut.chunks, grad_weight,
                       [&](int64_t e) { return problem.inverse[e % problem.geometry.elements()]; });
        }
        if (wanted.contractions) {
            add_contractions<version>(problem, sums.contractions, pointer(asked.parameters.positions, grad_positions),
                                      pointer(asked.parameters.sigma, grad_sigma));
        }
    });
    grad_input = cast(grad_input, input.scalar_type());
    const ScalarType dtype = weight.scalar_type();
    return {wanted.input ? in_format_of(input, grad_input) : grad_input,
            {cast(grad_weight, dtype), cast(grad_positions, dtype), cast(grad_sigma, dtype)},
            bias_gradient(asked.bias, grad_output, prepared.dtype)};
}

}  // namespace dcls::cpu
