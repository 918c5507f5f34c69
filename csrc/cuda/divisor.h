// Division by a number that is known before a kernel starts: a multiplication and a shift, not the twenty instructions
// of a division.
#pragma once

#include "../host_device.h"

#include <bit>
#include <cstdint>

namespace dcls::cuda {

// For dividends of 0 to 2^31 - 1.
class Divisor {
 public:
    Divisor() : Divisor(1) {}
    explicit Divisor(int divisor)  // positive
        : divisor_(divisor),
          shift_(std::bit_width(static_cast<uint32_t>(divisor - 1))),
          // 2^32 (2^shift / divisor - 1), rounded up.
          multiplier_(
              static_cast<uint32_t>(((uint64_t{1} << 32) * ((uint64_t{1} << shift_) - divisor_)) / divisor_ + 1)) {}

    DCLS_HOST_DEVICE int quotient(int dividend) const {
        const auto n = static_cast<uint32_t>(dividend);
        return static_cast<int>((static_cast<uint32_t>(uint64_t{n} * multiplier_ >> 32) + n) >> shift_);
    }

    // The remainder; the dividend becomes the quotient.
    DCLS_HOST_DEVICE int split_off(int& dividend) const {
        const int quotient_ = quotient(dividend), remainder = dividend - quotient_ * divisor_;
        dividend = quotient_;
        return remainder;
    }

    DCLS_HOST_DEVICE bool is_multiple(int dividend) const { return split_off(dividend) == 0; }

 private:
    int divisor_, shift_;
    uint32_t multiplier_;
};

}  // namespace dcls::cuda
