// Convolution with positions that all out channels share, on the CPU.
//
// Such an element reads the same interpolated input for every out channel. So each in channel is interpolated once per
// element and output pixel, which gives a column of (I/g) K values a pixel, and one matrix product
//
//     output (O/g, pixels) = weight (O/g, (I/g) K) * columns ((I/g) K, pixels)
//
// does the rest, whatever the extent of the kernel. Columns exist for a tile of pixels and a block of in channels at a
// time, in a buffer of kTileEntries that stays in a core's L2 cache: a thread takes a tile, fills the buffer and
// multiplies. Forward, a work item is a tile of one group. Backward, it is a block of in channels of some images, whose
// tiles it visits in order: the gradients that several pixels add to are then one thread's alone. How the work is cut
// depends on shapes only, and partial sums are added in order, so results do not depend on the number of threads.
//
// Interpolation is separable: a window of the padded input passes through one short filter per axis, last axis first,
// at the element's touched taps. Backward goes through the passes in reverse; the gradient of a pass in a factor is a
// dot product. Normalisation is left out of the factors and applied to the weight instead.
//
// Bound by the matrix product while O/g is well above the number of touched taps along an axis, else by the passes.
#include "conv_im2col.h"

#include "../convolution.h"
#include "parameters.h"
#include "tiles.h"

namespace dcls::cpu {
namespace {

// The limits on a tile's columns; dcls_ops.functional.conv2d tells users. 1 MiB of float32.
constexpr int64_t kTileEntries = 1 << 18;
constexpr int64_t kTilePixels = 1 << 10;

// How finely work is cut where there is enough of it: this many items at least, if they hold kSmallestTile pixels, or
// kSmallestBlock rows of columns, each.
constexpr int64_t kItems = 32;
constexpr int64_t kSmallestTile = 128;
constexpr int64_t kSmallestBlock = 64;

struct Geometry {
    int64_t images, groups;
    int64_t in_channels, out_channels, kernel_count;  // channels of one group
    int first_axis;
    Axes input, output, kernel_size, stride, padding;

    Geometry(const KernelArguments& kernel, const ConvArguments& conv, const Tensor& batched_input)
        : images(batched_input.size(0)),
          groups(conv.groups),
          in_channels(kernel.in_channels_per_group),
          out_channels(kernel.out_channels / conv.groups),
          kernel_count(kernel.kernel_count),
          first_axis(kAxes - static_cast<int>(kernel.spatial_axes())),
          input(three_axes({batched_input.sizes().begin() + 2, batched_input.sizes().end()}, 1)),
          output(three_axes({conv.output_shape.end() - kernel.spatial_axes(), conv.output_shape.end()}, 1)),
          kernel_size(three_axes(kernel.kernel_size, 1)),
          stride(three_axes(conv.stride, 1)),
          padding(three_axes(conv.padding, 0)) {}

    // Rows of columns: elements of all in channels of a group.
    int64_t elements() const { return in_channels * kernel_count; }

    int64_t max_pixels(int64_t wanted_items) const {
        const int64_t pixels = images * output[0] * output[1] * output[2];
        const int64_t most = std::min(kTilePixels, kTileEntries / std::max(kernel_count, out_channels));
        return std::max<int64_t>(1, std::min(most, std::max(kSmallestTile, ceil_div(pixels, wanted_items))));
    }

    // In channels whose columns for that many pixels fit the buffer; all of a group's blocks are about as large.
    int64_t block_channels(int64_t pixels) const {
        const int64_t entries = std::max<int64_t>(pixels, 1) * kernel_count;
        const int64_t most = std::clamp<int64_t>(kTileEntries / entries, 1, in_channels);
        return ceil_div(in_channels, ceil_div(in_channels, most));
    }
};

// out[j] (+)= sum over `taps` t of factor[t] * in[j * step + t * tap_step].
template <int taps, bool accumulate, typename T>
void weighted_sum(T* __restrict out, const T* __restrict in, int64_t count, int64_t step, int64_t tap_step,
                  const T* __restrict factor) {
    const auto sum_at = [&](int64_t j, int64_t stride) {
        T sum = factor[0] * in[j * stride];
        for (int t = 1; t < taps; ++t) {
            sum += factor[t] * in[j * stride + t * tap_step];
        }
        return sum;
    };
    if (step == 1) {
        for (int64_t j = 0; j < count; ++j) {
            out[j] = accumulate ? out[j] + sum_at(j, 1) : sum_at(j, 1);
        }
    } else {
        for (int64_t j = 0; j < count; ++j) {
            out[j] = accumulate ? out[j] + sum_at(j, step) : sum_at(j, step);
        }
    }
}

// The same for any number of taps, a few at a time.
template <typename T>
void weigh(T* out, const T* in, int64_t count, int64_t step, int64_t tap_step, const T* factor, int64_t taps) {
    switch (taps) {
        case 1:
            return weighted_sum<1, false>(out, in, count, step, tap_step, factor);
        case 2:
            return weighted_sum<2, false>(out, in, count, step, tap_step, factor);
        case 3:
            return weighted_sum<3, false>(out, in, count, step, tap_step, factor);
    }
    weighted_sum<4, false>(out, in, count, step, tap_step, factor);
    int64_t t = 4;
    for (; t + 4 <= taps; t += 4) {
        weighted_sum<4, true>(out, in + t * tap_step, count, step, tap_step, factor + t);
    }
    for (; t < taps; ++t) {
        weighted_sum<1, true>(out, in + t * tap_step, count, step, tap_step, factor + t);
    }
}

// The transpose of weigh(): grad_in[j * step + t * tap_step] += factor[t] * grad_out[j].
template <typename T>
void spread(const T* __restrict grad_out, T* __restrict grad_in, int64_t count, int64_t step, int64_t tap_step,
            const T* __restrict factor, int64_t taps) {
    for (int64_t t = 0; t < taps; ++t) {
        T* __restrict row = grad_in + t * tap_step;
        if (step == 1) {
            for (int64_t j = 0; j < count; ++j) {
                row[j] += factor[t] * grad_out[j];
            }
        } else {
            for (int64_t j = 0; j < count; ++j) {
                row[j * step] += factor[t] * grad_out[j];
            }
        }
    }
}

// The gradient of weigh() in its factors: grad_factor[t] += sum over j of grad_out[j] * in[j * step + t * tap_step].
template <typename T>
void correlate(const T* __restrict grad_out, const T* __restrict in, int64_t count, int64_t step, int64_t tap_step,
               T* __restrict grad_factor, int64_t taps) {
    for (int64_t t = 0; t < taps; ++t) {
        const T* __restrict row = in + t * tap_step;
        T sum = 0;
        if (step == 1) {
#pragma omp simd reduction(+ : sum)
            for (int64_t j = 0; j < count; ++j) {
                sum += grad_out[j] * row[j];
            }
        } else {
            for (int64_t j = 0; j < count; ++j) {
                sum += grad_out[j] * row[j * step];
            }
        }
        grad_factor[t] += sum;
    }
}

// The part of a padded input channel that a tile reads at the taps of some elements, and its gradient.
template <typename T>
class Window {
 public:
    explicit Window(const Geometry& geometry) : geometry_(geometry) {}

    // Sets the extent; false if no element touches a tap. Contents are not set.
    bool fit(const Tile& tile, const auto& factors) {
        Axes last_tap{};
        first_tap_ = geometry_.kernel_size;
        for (int64_t k = 0; k < geometry_.kernel_count; ++k) {
            for (int axis = 0; axis < kAxes; ++axis) {
                const TapRange range = factors.element(k)[axis].range;
                if (range.begin < range.end) {
                    first_tap_[axis] = std::min(first_tap_[axis], range.begin);
                    last_tap[axis] = std::max(last_tap[axis], range.end - 1);
                }
            }
        }
        images_ = tile.images;
        int64_t entries = images_;
        for (int axis = 0; axis < kAxes; ++axis) {
            if (first_tap_[axis] > last_tap[axis]) {
                return false;
            }
            begin_[axis] = tile.begin[axis] * geometry_.stride[axis] - geometry_.padding[axis] + first_tap_[axis];
            size_[axis] = (tile.size[axis] - 1) * geometry_.stride[axis] + last_tap[axis] - first_tap_[axis] + 1;
            entries *= size_[axis];
        }
        entries_.resize(std::max<size_t>(entries_.size(), entries));
        return true;
    }

    void load(const Planes& input, const Tile& tile, int64_t channel) {
        for_each_row([&](T* row, int64_t n, int64_t z, int64_t y, bool inside, int64_t before, int64_t count) {
            if (!inside) {
                std::fill_n(row, size_[2], T(0));
                return;
            }
            std::fill_n(row, before, T(0));
            input.read(tile.first_image + n, channel, z, y, begin_[2] + before, count, row + before);
            std::fill_n(row + before + count, size_[2] - before - count, T(0));
        });
    }

    void clear() { std::fill_n(entries_.data(), images_ * size_[0] * size_[1] * size_[2], T(0)); }

    // channel_gradient: the gradient (N, I, *spatial), contiguous.
    void add_to(T* gradient, const Tile& tile, int64_t channel) {
        const Axes& size = geometry_.input;
        const int64_t channels = geometry_.groups * geometry_.in_channels;
        for_each_row([&](const T* row, int64_t n, int64_t z, int64_t y, bool inside, int64_t before, int64_t count) {
            if (!inside) {
                return;
            }
            const int64_t plane = (tile.first_image + n) * channels + channel;
            T* __restrict to = gradient + ((plane * size[0] + z) * size[1] + y) * size[2] + begin_[2] + before;
            const T* __restrict from = row + before;
            for (int64_t x = 0; x < count; ++x) {
                to[x] += from[x];
            }
        });
    }

    // The entry that tap (z, y, x) of the tile's first pixel meets, and how far the next rows, planes and images are.
    int64_t at(int64_t z_tap, int64_t y_tap, int64_t x_tap) const {
        return ((z_tap - first_tap_[0]) * size_[1] + y_tap - first_tap_[1]) * size_[2] + x_tap - first_tap_[2];
    }
    int64_t row() const { return size_[2]; }
    int64_t plane() const { return size_[1] * size_[2]; }
    int64_t image() const { return size_[0] * plane(); }

    T* data() { return entries_.data(); }

 private:
    // body(row, image, z, y, whether the row is inside the input, entries before it is, entries inside).
    template <typename Body>
    void for_each_row(const Body& body) {
        const int64_t first = std::clamp<int64_t>(-begin_[2], 0, size_[2]);
        const int64_t last = std::clamp<int64_t>(geometry_.input[2] - begin_[2], first, size_[2]);
        T* row = entries_.data();
        for (int64_t n = 0; n < images_; ++n) {
            for (int64_t z = begin_[0]; z < begin_[0] + size_[0]; ++z) {
                for (int64_t y = begin_[1]; y < begin_[1] + size_[1]; ++y, row += size_[2]) {
                    const bool inside = z >= 0 && z < geometry_.input[0] && y >= 0 && y < geometry_.input[1];
                    body(row, n, z, y, inside, first, last - first);
                }
            }
        }
    }

    const Geometry& geometry_;
    int64_t images_ = 0;
    Axes first_tap_{}, begin_{}, size_{};
    std::vector<T> entries_;
};

// One element's passes over a window, forward and back. Planes between the passes are kept for the way back.
template <typename T>
class Passes {
 public:
    explicit Passes(const Geometry& geometry) : geometry_(geometry) {}

    void begin(const Tile& tile, const AxisFactors<T>* axes) {
        tile_ = tile;
        axes_ = axes;
        empty_ = false;
        for (int axis = 0; axis < kAxes; ++axis) {
            taps_[axis] = axes[axis].range.end - axes[axis].range.begin;
            // Rows and planes that the pass along `axis` needs of the passes before it.
            needed_[axis] = (tile.size[axis] - 1) * geometry_.stride[axis] + taps_[axis];
            empty_ = empty_ || taps_[axis] == 0;
        }
        if (!empty_) {
            grow(after_x_, tile.images * needed_[0] * needed_[1] * tile.size[2]);
            grow(after_y_, tile.images * needed_[0] * tile.size[1] * tile.size[2]);
        }
    }

    // Interpolates: `column` is one value a pixel.
    void forward(Window<T>& window, T* column) {
        if (empty_) {
            std::fill_n(column, tile_.pixels(), T(0));
            return;
        }
        const int last = geometry_.first_axis;
        T* after_x = last == 2 ? column : after_x_.data();
        along_x(window, [&](int64_t out, int64_t in, int64_t count, int64_t step) {
            weigh(after_x + out, window.data() + in, count, step, 1, factor(2), taps_[2]);
        });
        T* after_y = last == 1 ? column : after_y_.data();
        along(1, [&](int64_t out, int64_t in, int64_t count, int64_t tap_step) {
            weigh(after_y + out, after_x + in, count, 1, tap_step, factor(1), taps_[1]);
        });
        along(0, [&](int64_t out, int64_t in, int64_t count, int64_t tap_step) {
            weigh(column + out, after_y + in, count, 1, tap_step, factor(0), taps_[0]);
        });
    }

    // After forward(): adds to the window's gradient, and to what the loss contracts to; both may be null.
    void backward(Window<T>& window, const T* grad_column, Window<T>* grad_window, Contraction<T>* contraction) {
        if (empty_) {
            return;
        }
        const T* grad = grad_column;
        const auto back_along = [&](int axis, const std::vector<T>& input, std::vector<T>& grad_input) {
            grow(grad_input, input.size());
            std::fill(grad_input.begin(), grad_input.end(), T(0));
            clear_grad_factor(axis);
            along(axis, [&](int64_t out, int64_t in, int64_t count, int64_t tap_step) {
                spread(grad + out, grad_input.data() + in, count, 1, tap_step, factor(axis), taps_[axis]);
                if (contraction != nullptr) {
                    correlate(grad + out, input.data() + in, count, 1, tap_step, grad_factor_.data(), taps_[axis]);
                }
            });
            contract(axis, contraction);
            grad = grad_input.data();
        };
        if (geometry_.first_axis == 0) {
            back_along(0, after_y_, grad_after_y_);
        }
        if (geometry_.first_axis <= 1) {
            back_along(1, after_x_, grad_after_x_);
        }
        clear_grad_factor(2);
        along_x(window, [&](int64_t out, int64_t in, int64_t count, int64_t step) {
            if (grad_window != nullptr) {
                spread(grad + out, grad_window->data() + in, count, step, 1, factor(2), taps_[2]);
            }
            if (contraction != nullptr) {
                correlate(grad + out, window.data() + in, count, step, 1, grad_factor_.data(), taps_[2]);
            }
        });
        contract(2, contraction);
    }

 private:
    static void grow(std::vector<T>& buffer, int64_t entries) { buffer.resize(entries); }

    const T* factor(int axis) const { return axes_[axis].value + axes_[axis].range.begin; }

    void clear_grad_factor(int axis) { grad_factor_.assign(taps_[axis], T(0)); }

    // Adds what the gradient of an axis' factors means for the element.
    void contract(int axis, Contraction<T>* contraction) {
        if (contraction == nullptr) {
            return;
        }
        const AxisFactors<T>& factors = axes_[axis];
        for (int64_t t = 0; t < taps_[axis]; ++t) {
            const int64_t tap = factors.range.begin + t;
            contraction->d_position[axis] += grad_factor_[t] * factors.d_position[tap];
            contraction->d_sigma[axis] += grad_factor_[t] * factors.d_sigma[tap];
            // Any one axis gives the value.
            contraction->value += axis == 2 ? grad_factor_[t] * factors.value[tap] : T(0);
        }
    }

    // body(offset of the result, offset in the window, count, step between pixels) for every row.
    template <typename Body>
    void along_x(const Window<T>& window, const Body& body) const {
        const int64_t start = window.at(axes_[0].range.begin, axes_[1].range.begin, axes_[2].range.begin);
        int64_t out = 0;
        for (int64_t n = 0; n < tile_.images; ++n) {
            for (int64_t z = 0; z < needed_[0]; ++z) {
                for (int64_t y = 0; y < needed_[1]; ++y) {
                    const int64_t in = n * window.image() + z * window.plane() + y * window.row() + start;
                    body(out, in, tile_.size[2], geometry_.stride[2]);
                    out += tile_.size[2];
                }
            }
        }
    }

    // body(offset of the result, offset of the first tap, count, step between taps) for all rows (or planes, for axis
    // 0) at once where they lie together, else for every one. Nothing to do for an axis that the kernel does not have.
    template <typename Body>
    void along(int axis, const Body& body) const {
        if (axis < geometry_.first_axis) {
            return;
        }
        const int64_t inner = axis == 1 ? tile_.size[2] : tile_.size[1] * tile_.size[2];
        const int64_t outer = axis == 1 ? tile_.images * needed_[0] : tile_.images;
        const int64_t size = tile_.size[axis], stride = geometry_.stride[axis];
        for (int64_t i = 0; i < outer; ++i) {
            const int64_t out = i * size * inner, in = i * needed_[axis] * inner;
            if (stride == 1) {
                body(out, in, size * inner, inner);
                continue;
            }
            for (int64_t j = 0; j < size; ++j) {
                body(out + j * inner, in + j * stride * inner, inner, inner);
            }
        }
    }

    const Geometry& geometry_;
    Tile tile_{};
    const AxisFactors<T>* axes_ = nullptr;
    bool empty_ = false;
    Axes taps_{}, needed_{};
    std::vector<T> after_x_, after_y_, grad_after_x_, grad_after_y_, grad_factor_;
};

// A rows x columns matrix in a buffer that may be larger.
Tensor matrix(Tensor buffer, int64_t rows, int64_t columns) {
    return view(narrow(buffer, 0, 0, rows * columns), {rows, columns});
}

Tensor block(Tensor matrix, int64_t first_row, int64_t rows, int64_t first_column, int64_t columns) {
    Tensor all_columns = narrow(matrix, 0, first_row, rows);
    return narrow(all_columns, 1, first_column, columns);
}

// body(item) for every item, each by one thread. A single item runs in a parallel region too: outside of one, a matrix
// product may use several threads, and round differently with their number.
template <typename MakeBody>
void for_each_item(int64_t items, const MakeBody& make_body) {
    if (items == 0) {
        return;
    }
    parallel_for(0, std::max<int64_t>(items, 2), 1, [&](int64_t begin, int64_t end) {
        auto body = make_body();
        for (int64_t item = begin; item < std::min(end, items); ++item) {
            body(item);
        }
    });
}

// The tables of one in channel's elements. Positions are shared, so they are those of the channel's place in its group.
template <Version version, typename T, bool with_derivatives>
class ChannelFactors : public FilterFactors<version, T, with_derivatives> {
 public:
    ChannelFactors(const Geometry& geometry, const Parameters<T>& parameters)
        : FilterFactors<version, T, with_derivatives>(geometry.kernel_size, geometry.first_axis, geometry.kernel_count),
          geometry_(geometry),
          parameters_(parameters) {}

    void tabulate_channel(int64_t channel) {
        const int64_t at = channel * geometry_.kernel_count;
        this->tabulate(parameters_.positions + at, has_sigma(version) ? parameters_.sigma + at : nullptr,
                       geometry_.elements());
    }

 private:
    const Geometry& geometry_;
    Parameters<T> parameters_;
};

// 1 / normalisation of every element of a group.
template <Version version, typename T>
std::vector<T> inverse_normalisations(const Geometry& geometry, const Parameters<T>& parameters) {
    std::vector<T> inverse(geometry.elements());
    ChannelFactors<version, T, false> factors(geometry, parameters);
    for (int64_t i = 0; i < geometry.in_channels; ++i) {
        factors.tabulate_channel(i);
        for (int64_t k = 0; k < geometry.kernel_count; ++k) {
            inverse[i * geometry.kernel_count + k] = T(1) / normalisation<version>(factors.element(k));
        }
    }
    return inverse;
}

// The weight (O, (I/g) K) divided by its elements' normalisation.
template <typename T>
Tensor normalised_weight(const Geometry& geometry, const Tensor& weight, const std::vector<T>& inverse) {
    const int64_t rows = geometry.groups * geometry.out_channels, elements = geometry.elements();
    const Tensor result = empty({rows, elements}, weight.scalar_type(), weight);
    const T* from = weight.const_data_ptr<T>();
    T* to = result.mutable_data_ptr<T>();
    for (int64_t row = 0; row < rows; ++row) {
        for (int64_t e = 0; e < elements; ++e) {
            to[row * elements + e] = from[row * elements + e] * inverse[e];
        }
    }
    return result;
}

Tiling forward_tiles(const Geometry& geometry) {
    return {0, geometry.images, geometry.output, geometry.max_pixels(ceil_div(kItems, geometry.groups))};
}

template <Version version, typename T>
void forward(const Geometry& geometry, const Tensor& input, const Parameters<T>& parameters, const Tensor& weight,
             const T* bias, const Tensor& output) {
    const ScalarType dtype = weight.scalar_type();
    const Planes in(input), out(output);
    const Tiling tiles = forward_tiles(geometry);
    const int64_t block_channels = geometry.block_channels(tiles.max_pixels());
    for_each_item(geometry.groups * tiles.count(), [&] {
        return
            [&, factors = ChannelFactors<version, T, false>(geometry, parameters), window = Window<T>(geometry),
             passes = Passes<T>(geometry),
             columns_buffer = empty({block_channels * geometry.kernel_count * tiles.max_pixels()}, dtype, weight),
             result_buffer = empty({geometry.out_channels * tiles.max_pixels()}, dtype, weight)](int64_t item) mutable {
                const int64_t group = item / tiles.count();
                const Tile tile = tiles[item % tiles.count()];
                const int64_t pixels = tile.pixels();
                if (pixels == 0) {
                    return;
                }
                Tensor result = matrix(result_buffer, geometry.out_channels, pixels);
                for (int64_t first = 0; first < geometry.in_channels; first += block_channels) {
                    const int64_t channels = std::min(block_channels, geometry.in_channels - first);
                    const int64_t rows = channels * geometry.kernel_count;
                    T* column = columns_buffer.template mutable_data_ptr<T>();
                    for (int64_t i = first; i < first + channels; ++i) {
                        factors.tabulate_channel(i);
                        if (window.fit(tile, factors)) {
                            window.load(in, tile, group * geometry.in_channels + i);
                        }
                        for (int64_t k = 0; k < geometry.kernel_count; ++k, column += pixels) {
                            passes.begin(tile, factors.element(k));
                            passes.forward(window, column);
                        }
                    }
                    const Tensor block_weight = block(weight, group * geometry.out_channels, geometry.out_channels,
                                                      first * geometry.kernel_count, rows);
                    cpu_matrix_product(block_weight, matrix(columns_buffer, rows, pixels), first > 0, result);
                }
                T* row = result.template mutable_data_ptr<T>();
                for (int64_t o = group * geometry.out_channels; o < (group + 1) * geometry.out_channels;
                     ++o, row += pixels) {
                    for (int64_t p = 0; bias != nullptr && p < pixels; ++p) {
                        row[p] += bias[o];
                    }
                    out.write(o, tile, row);
                }
            };
    });
}

// Which gradients are asked for.
struct Wanted {
    bool input, weight, positions, sigma, bias;

    bool contractions() const { return positions || sigma; }
};

// How the backward pass is cut: into groups, blocks of in channels, and chunks of images.
struct Cut {
    int64_t max_pixels, block_channels, blocks, chunk_images, chunks;

    explicit Cut(const Geometry& geometry) {
        max_pixels = geometry.max_pixels(1);
        const int64_t smallest = ceil_div(kSmallestBlock, geometry.kernel_count);
        const int64_t wanted_blocks = ceil_div(kItems, geometry.groups * std::max<int64_t>(geometry.images, 1));
        const int64_t most = std::max(smallest, ceil_div(geometry.in_channels, wanted_blocks));
        block_channels = std::min(most, geometry.block_channels(max_pixels));
        blocks = ceil_div(geometry.in_channels, block_channels);
        const int64_t wanted_chunks = std::max<int64_t>(1, kItems / (geometry.groups * blocks));
        chunk_images = ceil_div(geometry.images, wanted_chunks);
        chunks = chunk_images == 0 ? 0 : ceil_div(geometry.images, chunk_images);
    }
};

// What one chunk of images adds to the gradients of parameters.
template <typename T>
struct ChunkSums {
    Tensor weight;                             // (chunks, O, (I/g) K)
    std::vector<T> bias;                       // (chunks, O)
    std::vector<Contraction<T>> contractions;  // (chunks, groups, (I/g) K)
};

template <Version version, typename T>
ChunkSums<T> backward(const Geometry& geometry, const Cut& cut, const Wanted& wanted, const Tensor& grad_output,
                      const Tensor& input, const Parameters<T>& parameters, const Tensor& weight, T* grad_input) {
    const ScalarType dtype = weight.scalar_type();
    const int64_t kernel_count = geometry.kernel_count, elements = geometry.elements();
    const int64_t out_channels = geometry.out_channels, all_out_channels = geometry.groups * out_channels;
    const Planes in(input), grad_out(grad_output);
    ChunkSums<T> sums{empty({wanted.weight ? cut.chunks * all_out_channels * elements : 0}, dtype, weight),
                      std::vector<T>(cut.chunks * all_out_channels),
                      std::vector<Contraction<T>>(cut.chunks * geometry.groups * elements)};
    const bool needs_columns = wanted.weight || wanted.contractions();
    const bool needs_grad_columns = wanted.input || wanted.contractions();

    for_each_item(geometry.groups * cut.blocks * cut.chunks, [&] {
        const auto buffer = [&](int64_t rows) { return empty({rows * cut.max_pixels}, dtype, weight); };
        return [&, factors = ChannelFactors<version, T, true>(geometry, parameters), window = Window<T>(geometry),
                grad_window = Window<T>(geometry), passes = Passes<T>(geometry),
                columns_buffer = buffer(needs_columns ? cut.block_channels * kernel_count : 0),
                grad_columns_buffer = buffer(needs_grad_columns ? cut.block_channels * kernel_count : 0),
                grad_buffer = buffer(out_channels)](int64_t item) mutable {
            const int64_t group = item % geometry.groups, block_index = item / geometry.groups % cut.blocks;
            const int64_t chunk = item / (geometry.groups * cut.blocks);
            const int64_t first = block_index * cut.block_channels;
            const int64_t channels = std::min(cut.block_channels, geometry.in_channels - first);
            const int64_t rows = channels * kernel_count, first_element = first * kernel_count;
            const int64_t first_image = chunk * cut.chunk_images;
            const Tiling tiles(first_image, std::min(cut.chunk_images, geometry.images - first_image), geometry.output,
                               cut.max_pixels);
            for (int64_t t = 0; t < tiles.count(); ++t) {
                const Tile tile = tiles[t];
                const int64_t pixels = tile.pixels();
                if (pixels == 0) {
                    continue;
                }
                T* grad_row = grad_buffer.template mutable_data_ptr<T>();
                for (int64_t o = group * out_channels; o < (group + 1) * out_channels; ++o, grad_row += pixels) {
                    grad_out.read(o, tile, grad_row);
                    if (wanted.bias && block_index == 0) {
                        T sum = 0;
                        for (int64_t p = 0; p < pixels; ++p) {
                            sum += grad_row[p];
                        }
                        sums.bias[chunk * all_out_channels + o] += sum;
                    }
                }
                const Tensor grad = matrix(grad_buffer, out_channels, pixels);
                if (needs_grad_columns) {
                    Tensor grad_columns = matrix(grad_columns_buffer, rows, pixels);
                    const Tensor block_weight = block(weight, group * out_channels, out_channels, first_element, rows);
                    cpu_matrix_product(transpose(block_weight, 0, 1), grad, false, grad_columns);
                }
                T* column = columns_buffer.template mutable_data_ptr<T>();
                const T* grad_column = grad_columns_buffer.template mutable_data_ptr<T>();
                for (int64_t i = first; i < first + channels; ++i) {
                    factors.tabulate_channel(i);
                    const bool touched = window.fit(tile, factors);
                    if (touched) {
                        window.load(in, tile, group * geometry.in_channels + i);
                        grad_window.fit(tile, factors);
                        grad_window.clear();
                    }
                    for (int64_t k = 0; k < kernel_count; ++k, column += pixels, grad_column += pixels) {
                        passes.begin(tile, factors.element(k));
                        if (needs_columns) {
                            passes.forward(window, column);
                        }
                        if (needs_grad_columns) {
                            const int64_t element = (chunk * geometry.groups + group) * elements + i * kernel_count + k;
                            passes.backward(window, grad_column, wanted.input ? &grad_window : nullptr,
                                            wanted.contractions() ? &sums.contractions[element] : nullptr);
                        }
                    }
                    if (touched && wanted.input) {
                        grad_window.add_to(grad_input, tile, group * geometry.in_channels + i);
                    }
                }
                if (wanted.weight) {
                    const Tensor all = view(sums.weight, {cut.chunks * all_out_channels, elements});
                    Tensor sum =
                        block(all, chunk * all_out_channels + group * out_channels, out_channels, first_element, rows);
                    cpu_matrix_product(grad, transpose(matrix(columns_buffer, rows, pixels), 0, 1), t > 0, sum);
                }
            }
        };
    });
    return sums;
}

// The gradients of positions and sigma (d, 1, I/g, K) from what chunks and groups have contributed.
template <Version version, typename T>
void position_gradients(const Geometry& geometry, const Cut& cut, const Parameters<T>& parameters,
                        const std::vector<Contraction<T>>& contractions, T* grad_positions, T* grad_sigma) {
    ChannelFactors<version, T, true> factors(geometry, parameters);
    for (int64_t element = 0; element < geometry.elements(); ++element) {
        const int64_t k = element % geometry.kernel_count;
        if (k == 0) {
            factors.tabulate_channel(element / geometry.kernel_count);
        }
        Contraction<T> sum;
        for (int64_t part = 0; part < cut.chunks * geometry.groups; ++part) {
            sum.add(contractions[part * geometry.elements() + element], T(1));
        }
        for (int axis = geometry.first_axis; axis < kAxes; ++axis) {
            const AxisGradients<version, T> gradients(sum, factors.element(k), axis);
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

double im2col_cost(const KernelArguments& kernel_arguments, const ConvArguments& arguments, const Tensor& input,
                   Pass pass) {
    const Geometry geometry(kernel_arguments, arguments, batched(input, arguments));
    const Axes tile = forward_tiles(geometry).size();
    // Multiply-adds of the passes. The pass along one axis also makes what the later ones read around the tile.
    double multiply_adds = 0, surplus = 1;
    for (int axis = geometry.first_axis; axis < kAxes; ++axis) {
        const bool is_local = !has_sigma(kernel_arguments.version);
        const int64_t taps = is_local ? std::min<int64_t>(2, geometry.kernel_size[axis]) : geometry.kernel_size[axis];
        multiply_adds += static_cast<double>(taps) * surplus;
        surplus *= 1 + static_cast<double>(taps - 1) / static_cast<double>(std::max<int64_t>(tile[axis], 1));
    }
    const double column = pass == Pass::forward ? 34 : 46;  // to set up, write and read a value, whatever the taps
    return static_cast<double>(geometry.kernel_count) *
           (static_cast<double>(geometry.out_channels) + column + 2.4 * multiply_adds);
}

Tensor conv_im2col(const Tensor& input, const Tensor& weight, const Tensor& positions, const OptionalTensor& sigma,
                   const OptionalTensor& bias, const KernelArguments& kernel_arguments,
                   const ConvArguments& arguments) {
    const Tensor batched_input = batched(input, arguments);
    const ScalarType dtype = compute_dtype(weight);
    const PreparedParameters prepared(weight, positions, sigma, dtype);
    const OptionalTensor wide_bias = bias.has_value() ? OptionalTensor(contiguous(cast(*bias, dtype))) : std::nullopt;
    const Geometry geometry(kernel_arguments, arguments, batched_input);
    const Tensor output =
        empty_in_format(arguments.batched_output_shape(), batched_input, memory_format_like(batched_input));
    dispatch(kernel_arguments.version, dtype, [&]<Version version, typename T>() {
        const Parameters<T> parameters = prepared.pointers<T>();
        const Tensor normalised =
            normalised_weight(geometry, prepared.weight, inverse_normalisations<version>(geometry, parameters));
        forward<version, T>(geometry, batched_input, parameters, normalised,
                            wide_bias.has_value() ? wide_bias->const_data_ptr<T>() : nullptr, output);
    });
    return arguments.batched ? output : squeeze(output, 0);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> conv_im2col_backward(const Tensor& grad_output, const Tensor& input,
                                                                        const Tensor& weight, const Tensor& positions,
                                                                        const OptionalTensor& sigma,
                                                                        const KernelArguments& kernel_arguments,
                                                                        const ConvArguments& arguments,
                                                                        const std::array<bool, 5>& output_mask) {
    const Tensor batched_input = batched(input, arguments);
    const ScalarType dtype = compute_dtype(weight);
    const PreparedParameters prepared(weight, positions, sigma, dtype);
    const Geometry geometry(kernel_arguments, arguments, batched_input);
    const Cut cut(geometry);
    const Wanted wanted{output_mask[0], output_mask[1], output_mask[2], output_mask[3] && sigma.has_value(),
                        output_mask[4]};
    const auto allocate = [&](bool ask, const IntList& shape) {
        return ask ? empty(shape, dtype, weight) : not_computed(dtype, weight);
    };
    const IntList position_shape{positions.sizes().begin(), positions.sizes().end()};
    Tensor grad_input = allocate(wanted.input, {batched_input.sizes().begin(), batched_input.sizes().end()});
    const Tensor grad_weight = allocate(wanted.weight, {weight.sizes().begin(), weight.sizes().end()});
    const Tensor grad_positions = allocate(wanted.positions, position_shape);
    const Tensor grad_sigma = allocate(wanted.sigma, position_shape);
    const Tensor grad_bias = allocate(wanted.bias, {weight.size(0)});
    zero_(grad_input);  // tiles add to it

    dispatch(kernel_arguments.version, dtype, [&]<Version version, typename T>() {
        const auto pointer = [](bool ask, const Tensor& tensor) {
            return ask ? tensor.mutable_data_ptr<T>() : nullptr;
        };
        const Parameters<T> parameters = prepared.pointers<T>();
        const std::vector<T> inverse = inverse_normalisations<version>(geometry, parameters);
        const Tensor normalised = normalised_weight(geometry, prepared.weight, inverse);
        const ChunkSums<T> sums =
            backward<version, T>(geometry, cut, wanted, batched(grad_output, arguments), batched_input, parameters,
                                 normalised, pointer(wanted.input, grad_input));
        const auto add_chunks = [&](const T* chunks, T* total, int64_t entries, const auto& scale) {
            for (int64_t e = 0; e < entries; ++e) {
                T sum = 0;
                for (int64_t chunk = 0; chunk < cut.chunks; ++chunk) {
                    sum += chunks[chunk * entries + e];
                }
                total[e] = sum * scale(e);
            }
        };
        if (wanted.weight) {
            add_chunks(sums.weight.template const_data_ptr<T>(), grad_weight.mutable_data_ptr<T>(), weight.numel(),
                       [&](int64_t e) { return inverse[e % geometry.elements()]; });
        }
        if (wanted.bias) {
            add_chunks(sums.bias.data(), grad_bias.mutable_data_ptr<T>(), weight.size(0), [](int64_t) { return T(1); });
        }
        if (wanted.contractions()) {
            position_gradients<version, T>(geometry, cut, parameters, sums.contractions,
                                           pointer(wanted.positions, grad_positions),
                                           pointer(wanted.sigma, grad_sigma));
        }
    });
    const ScalarType parameter_dtype = weight.scalar_type(), input_dtype = input.scalar_type();
    grad_input = cast(grad_input, input_dtype);
    return {wanted.input ? formatted(grad_input, batched_input, arguments) : grad_input,
            cast(grad_weight, parameter_dtype), cast(grad_positions, parameter_dtype),
            cast(grad_sigma, parameter_dtype), cast(grad_bias, input_dtype)};
}

}  // namespace dcls::cpu
