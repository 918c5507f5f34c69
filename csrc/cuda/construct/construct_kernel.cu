// Construction of dense kernels on CUDA.
//
// Forward: a block builds a box of one filter's taps. It tabulates the per-axis factors of some elements at a time in
// shared memory; then each thread adds up the elements, in order, at its own taps. Backward: a warp contracts its
// element with the filter's gradient, box by box, from a table of its own, and adds up its lanes as a tree
// (elements.cu does the rest). Both are bound by shared memory: three loads an element and tap.
//
// Nothing is added to by two threads, so results are the same every time.
#include "construct_kernel.h"

#include "../elements.h"
#include "../ptx.h"

namespace dcls::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr int kTapsPerThread = 8;
constexpr int kTableBytes = 32 << 10;

// The extents of a filter cut into boxes: as much of the last axis as fits into `most` taps, then of the one before.
struct Boxes {
    Axes extent, size, count;

    Boxes(const Axes& extent_, int64_t most) : extent(extent_), size{}, count{} {
        for (int axis = kAxes - 1; axis >= 0; --axis) {
            size[axis] = std::clamp<int64_t>(most, 1, extent[axis]);
            count[axis] = ceil_div(extent[axis], size[axis]);
            most /= size[axis];
        }
    }

    __host__ __device__ int64_t total() const { return count[0] * count[1] * count[2]; }
    // Factors of one element.
    __host__ __device__ int64_t factors() const { return size[0] + size[1] + size[2]; }
};

// One of them. Its taps and factors are counted from its own corner.
struct Box {
    int64_t begin[kAxes];
    int size[kAxes];

    __device__ Box(const Boxes& boxes, int64_t index) : begin{}, size{} {
        for (int axis = kAxes - 1; axis >= 0; --axis) {
            begin[axis] = index % boxes.count[axis] * boxes.size[axis];
            size[axis] = static_cast<int>(std::min(boxes.size[axis], boxes.extent[axis] - begin[axis]));
            index /= boxes.count[axis];
        }
    }

    __device__ int taps() const { return size[0] * size[1] * size[2]; }
    __device__ int factors() const { return size[0] + size[1] + size[2]; }

    // Which factors meet at a tap, in a table of those along z, then y, then x.
    struct FactorIndices {
        int z, y, x;
    };
    __device__ FactorIndices factors_at(int tap) const {
        const int row = tap / size[2];
        return {row / size[1], size[0] + row % size[1], size[0] + size[1] + tap % size[2]};
    }
    __device__ int64_t tap_in_filter(const FactorIndices& at, const Axes& extent) const {
        return ((begin[0] + at.z) * extent[1] + begin[1] + at.y - size[0]) * extent[2] + begin[2] + at.x - size[0] -
               size[1];
    }

    // Entry `at` of that table.
    template <Version version, typename C>
    __device__ Factor<C> factor(const Element<version, C>& element, int at) const {
        if (at < size[0]) {
            return element.factor(0, begin[0] + at);
        }
        at -= size[0];
        return at < size[1] ? element.factor(1, begin[1] + at) : element.factor(2, begin[2] + at - size[1]);
    }
};

template <Version version, typename C>
__global__ void __launch_bounds__(kThreads) sum_elements_kernel(Filters filters, Boxes boxes, Parameters<C> parameters,
                                                                const C* inverse, int elements_at_once, C* kernel) {
    C* scale = shared_memory<C>();  // weight / normalisation
    C* table = scale + elements_at_once;
    for_each_item(filters.count() * boxes.total(), [&](int64_t item) {
        const int64_t filter = item / boxes.total();
        const Box box(boxes, item % boxes.total());
        const int factors = box.factors(), taps = box.taps();
        C sums[kTapsPerThread] = {};
        for (int64_t first = 0; first < filters.kernel_count; first += elements_at_once) {
            const int count = static_cast<int>(std::min<int64_t>(elements_at_once, filters.kernel_count - first));
            __syncthreads();  // the last elements have been read
            for (int i = static_cast<int>(threadIdx.x); i < count * factors; i += kThreads) {
                const int64_t element = filters.position_element(filter, first + i / factors);
                table[i] = box.factor(Element<version, C>(filters, parameters, element), i % factors).value;
            }
            for (int k = static_cast<int>(threadIdx.x); k < count; k += kThreads) {
                scale[k] = parameters.weight[filter * filters.kernel_count + first + k] *
                           inverse[filters.position_element(filter, first + k)];
            }
            __syncthreads();
#pragma unroll
            for (int j = 0; j < kTapsPerThread; ++j) {
                const int tap = static_cast<int>(threadIdx.x) + j * kThreads;
                if (tap < taps) {
                    const auto at = box.factors_at(tap);
                    for (int k = 0; k < count; ++k) {
                        const C* of_element = table + k * factors;
                        sums[j] += scale[k] * of_element[at.z] * of_element[at.y] * of_element[at.x];
                    }
                }
            }
        }
#pragma unroll
        for (int j = 0; j < kTapsPerThread; ++j) {
            const int tap = static_cast<int>(threadIdx.x) + j * kThreads;
            if (tap < taps) {
                kernel[filter * filters.tap_count + box.tap_in_filter(box.factors_at(tap), filters.extent)] = sums[j];
            }
        }
    });
}

template <Version version, typename C>
__global__ void __launch_bounds__(kThreads, kFewestBlocks<C>)
    contract_kernel(Filters filters, Boxes boxes, Parameters<C> parameters, const C* grad_kernel, C* contractions) {
    const int lane = static_cast<int>(threadIdx.x % kWarp), warp = static_cast<int>(threadIdx.x / kWarp);
    Factor<C>* table = shared_memory<Factor<C>>() + warp * boxes.factors();
    for_each_item(ceil_div(filters.elements(), kWarps), [&](int64_t item) {
        const int64_t index = item * kWarps + warp;
        if (index >= filters.elements()) {
            return;
        }
        const int64_t filter = index / filters.kernel_count;
        const Element<version, C> element(filters, parameters,
                                          filters.position_element(filter, index % filters.kernel_count));
        const C* grad_taps = grad_kernel + filter * filters.tap_count;
        Contraction<C> contraction;
        for (int64_t b = 0; b < boxes.total(); ++b) {
            const Box box(boxes, b);
            __syncwarp();  // the last box has been read
            for (int i = lane; i < box.factors(); i += kWarp) {
                table[i] = box.factor(element, i);
            }
            __syncwarp();
            for (int tap = lane; tap < box.taps(); tap += kWarp) {
                const auto at = box.factors_at(tap);
                contract_tap(grad_taps[box.tap_in_filter(at, filters.extent)], table[at.z], table[at.y], table[at.x],
                             contraction);
            }
        }
        contraction = warp_sum(contraction);
        if (lane == 0) {
            store(contraction, contractions, index, filters.elements());
        }
    });
}

}  // namespace

Tensor construct_kernel(const Tensor& weight, const Tensor& positions, const OptionalTensor& sigma,
                        const KernelArguments& arguments) {
    const PreparedParameters prepared(weight, positions, sigma);
    const Filters filters(arguments.dense_taps_as_channels());
    const Tensor inverse = inverse_normalisation(filters, prepared, arguments.version);
    const Tensor kernel = empty(arguments.kernel_shape(), prepared.dtype, weight);
    const Boxes boxes(filters.extent, int64_t{kThreads} * kTapsPerThread);
    const Launcher launch(weight);
    dispatch(arguments.version, prepared.dtype, [&]<Version version, typename C>() {
        const auto element_bytes = static_cast<int64_t>(sizeof(C)) * (boxes.factors() + 1);
        const int64_t at_once = std::clamp<int64_t>(kTableBytes / element_bytes, 1, filters.kernel_count);
        launch(sum_elements_kernel<version, C>, filters.count() * boxes.total(), kThreads, at_once * element_bytes,
               filters, boxes, prepared.pointers<C>(), inverse.const_data_ptr<C>(), static_cast<int>(at_once),
               kernel.mutable_data_ptr<C>());
    });
    return kernel;
}

ParameterGradients<Tensor> construct_kernel_backward(const Tensor& grad_kernel, const Tensor& weight,
                                                     const Tensor& positions, const OptionalTensor& sigma,
                                                     const KernelArguments& arguments,
                                                     const ParameterGradients<bool>& wanted) {
    const PreparedParameters prepared(weight, positions, sigma);
    const Tensor grad = contiguous(cast(grad_kernel, prepared.dtype));
    const Filters filters(arguments.dense_taps_as_channels());
    const Tensor contractions = empty({1, kContractionValues, filters.elements()}, prepared.dtype, weight);
    constexpr int64_t kBoxTaps = 256;
    const Boxes boxes(filters.extent, kBoxTaps);
    const Launcher launch(weight);
    dispatch(arguments.version, prepared.dtype, [&]<Version version, typename C>() {
        launch(contract_kernel<version, C>, ceil_div(filters.elements(), kWarps), kThreads,
               static_cast<int64_t>(sizeof(Factor<C>)) * kWarps * boxes.factors(), filters, boxes,
               prepared.pointers<C>(), grad.const_data_ptr<C>(), contractions.mutable_data_ptr<C>());
    });
    return element_gradients(contractions, filters, prepared, arguments.version, weight.scalar_type(), wanted);
}

}  // namespace dcls::cuda
