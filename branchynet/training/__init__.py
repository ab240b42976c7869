"""Everything that needs labelled images: data, training, calibration and export."""
