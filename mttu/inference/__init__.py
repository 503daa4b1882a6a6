"""How a case goes through a network: windows, Monte Carlo passes, device and precision, and the kept calibration."""
