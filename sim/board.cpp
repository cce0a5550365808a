// The simulated board: the verilated accelerator between two byte queues.
//
// Every board_create() gives an independent machine; a machine is used by one thread at a time.
// The model's ports are those of hdl.top.rtlil, of a machine whose array has ARRAY_CLOCK clocks in
// one of its own. Time passes in board_run() alone.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>

#include "Vtop.h"
#include "verilated.h"

// Verilator spells the second underscore of i__payload as its code.
#define PORT(side, name) side##___05F##name
#if ARRAY_CLOCK > 1
#define SET_CLK_ARRAY(level) top_->clk_array = (level)
#else
#define SET_CLK_ARRAY(level) static_cast<void>(0)
#endif

namespace {

constexpr std::uint8_t END = 0xC0;    // hdl.protocol.END
constexpr int RESET_CYCLES = 8;

class Board {
public:
    Board() : context_(new VerilatedContext), top_(new Vtop(context_.get(), "")) {
        top_->clk = 0;
        SET_CLK_ARRAY(0);
        top_->eval();
        reset();
    }

    ~Board() { top_->final(); }

    // Power-up but for the memories' contents. Bytes on their way are lost.
    void reset() {
        input_.clear();
        output_.clear();
        in_frame_ = false;
        top_->rst = 1;
        for (int i = 0; i < RESET_CYCLES; i++) {
            cycle();
        }
        top_->rst = 0;
        output_.clear();
    }

    void send(const std::uint8_t *bytes, std::size_t count) {
        input_.insert(input_.end(), bytes, bytes + count);
    }

    std::size_t recv(std::uint8_t *bytes, std::size_t most) {
        std::size_t count = 0;
        for (; count < most && !output_.empty(); count++) {
            bytes[count] = output_.front();
            output_.pop_front();
        }
        return count;
    }

    std::size_t available() const { return output_.size(); }

    std::uint64_t cycles() const { return cycles_; }

    // Run until a frame is complete, or for `most` cycles; the cycles that it took.
    std::uint64_t run(std::uint64_t most) {
        std::uint64_t count = 0;
        for (bool complete = false; count < most && !complete; count++) {
            complete = cycle();
        }
        return count;
    }

private:
    // One clock; whether it took the byte that ends a frame.
    bool cycle() {
        top_->PORT(i, valid) = !input_.empty();
        top_->PORT(i, payload) = input_.empty() ? 0 : input_.front();
        top_->PORT(o, ready) = 1;
        // What is handed over follows from registers alone, so it is settled since the last edge.
        bool taken = top_->PORT(i, valid) && top_->PORT(i, ready);
        bool given = top_->PORT(o, valid);
        std::uint8_t byte = top_->PORT(o, payload);
        for (int tick = 0; tick < ARRAY_CLOCK; tick++) {
            top_->clk = tick == 0;
            SET_CLK_ARRAY(1);
            top_->eval();
            top_->clk = 0;
            SET_CLK_ARRAY(0);
            top_->eval();
        }
        cycles_++;
        if (taken) {
            input_.pop_front();
        }
        if (!given) {
            return false;
        }
        output_.push_back(byte);
        bool complete = byte == END && in_frame_;
        in_frame_ = byte != END;
        return complete;
    }

    std::unique_ptr<VerilatedContext> context_;
    std::unique_ptr<Vtop> top_;
    std::deque<std::uint8_t> input_, output_;
    std::uint64_t cycles_ = 0;
    bool in_frame_ = false;
};

}  // namespace

extern "C" {

void *board_create() { return new Board; }

void board_destroy(void *board) { delete static_cast<Board *>(board); }

void board_reset(void *board) { static_cast<Board *>(board)->reset(); }

void board_send(void *board, const std::uint8_t *bytes, std::size_t count) {
    static_cast<Board *>(board)->send(bytes, count);
}

std::size_t board_recv(void *board, std::uint8_t *bytes, std::size_t most) {
    return static_cast<Board *>(board)->recv(bytes, most);
}

std::size_t board_available(void *board) { return static_cast<Board *>(board)->available(); }

std::uint64_t board_run(void *board, std::uint64_t most) {
    return static_cast<Board *>(board)->run(most);
}

std::uint64_t board_cycles(void *board) { return static_cast<Board *>(board)->cycles(); }

}
