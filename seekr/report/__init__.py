"""What runs came to: one self-contained HTML page, figures for papers, and tables for the terminal."""
