"""`python pacer.py BEGIN PACE SECONDS`: writes the time (monotonic, ns) as a line, once in PACE seconds from the time BEGIN on."""
import sys
import time

if __name__ == "__main__":
    begin, pace_s, seconds = map(float, sys.argv[1:])
    for number in range(round(seconds / pace_s)):
        time.sleep(max(0.0, begin + number * pace_s - time.monotonic()))
        print(time.monotonic_ns(), flush=True)
