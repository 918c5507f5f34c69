// Memory for the inner loops.
#pragma once

#include "depthwise_loops.h"

#include <memory>
#include <new>

namespace dcls::cpu {

// Grows when more is asked for, and is not initialised.
template <typename T>
class Buffer {
 public:
    T* reserve(int64_t entries) {
        if (entries > size_) {
            entries_.reset(static_cast<T*>(::operator new[](entries * sizeof(T), std::align_val_t(kBufferAlignment))));
            size_ = entries;
        }
        return entries_.get();
    }

 private:
    struct Delete {
        void operator()(T* entries) const { ::operator delete[](entries, std::align_val_t(kBufferAlignment)); }
    };
    int64_t size_ = 0;
    std::unique_ptr<T[], Delete> entries_;
};

}  // namespace dcls::cpu
