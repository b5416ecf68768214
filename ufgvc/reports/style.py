"""The look of the page: one accent colour, system fonts, nothing loaded from anywhere."""

CSS = """
:root{--paper:#fbfcfa;--card:#fff;--ink:#17211b;--soft:#5f6b64;--line:#d5dcd6;--accent:#1f7a4d;--second:#b98a2f;
--wash:#eaf3ed;--warn:#fdf4df;color-scheme:light dark}
@media (prefers-color-scheme:dark){:root{--paper:#101512;--card:#171e1a;--ink:#e8eee9;--soft:#a3afa7;--line:#303a34;
--accent:#5cc48f;--second:#d9b35f;--wash:#18281f;--warn:#2b2412}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
overflow-wrap:anywhere}
header,main,footer{max-width:66rem;margin:0 auto;padding:0 1.25rem}
header{padding-top:3rem}
.kicker{margin:0;color:var(--accent);font-weight:600;letter-spacing:.02em}
h1{font-size:clamp(1.6rem,1.1rem + 2.2vw,2.5rem);line-height:1.15;letter-spacing:-.02em;margin:.3rem 0 1.6rem;text-wrap:balance}
h2{font-size:1.35rem;line-height:1.25;letter-spacing:-.01em;margin:0 0 .4rem}
section{margin:3rem 0 0;padding-top:1.6rem;border-top:1px solid var(--line)}
section>p{margin:.2rem 0 1.1rem;max-width:44rem;color:var(--soft)}
.hero{display:flex;flex-wrap:wrap;align-items:baseline;gap:.4rem 1.4rem;margin-bottom:1.4rem}
.hero p{margin:0;max-width:34rem;font-size:1.05rem}
.hero .big{font-size:clamp(3.2rem,2rem + 6vw,5.2rem);line-height:1;font-weight:700;letter-spacing:-.04em;color:var(--accent);
font-variant-numeric:tabular-nums;white-space:nowrap}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.75rem;margin:0}
.tiles div{background:var(--wash);border-radius:.6rem;padding:.8rem 1rem;display:flex;flex-direction:column-reverse}
.tiles dd{margin:0;font-size:1.5rem;font-weight:650;line-height:1.25;font-variant-numeric:tabular-nums}
.tiles dt{color:var(--soft);font-size:.875rem}
.warn{margin:1.2rem 0 0;padding:.9rem 1.1rem .9rem 2.2rem;background:var(--warn);border-left:4px solid var(--second);
border-radius:0 .6rem .6rem 0}
.box{overflow-x:auto;max-height:34rem;overflow-y:auto;border:1px solid var(--line);border-radius:.6rem;background:var(--card);
margin:0 0 .6rem;overflow-wrap:normal;scrollbar-width:thin}
.box:focus-visible,summary:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
table{border-collapse:separate;border-spacing:0;width:100%;font-size:.925rem;font-variant-numeric:tabular-nums}
caption{text-align:left;padding:.7rem .9rem;font-weight:600}
th,td{padding:.5rem .9rem;text-align:left;vertical-align:baseline;border-top:1px solid var(--line);white-space:nowrap}
thead th{color:var(--soft);font-weight:500;font-size:.85rem;position:sticky;top:0;z-index:1;background:var(--card);
box-shadow:0 1px var(--line)}
tbody th{font-weight:600}
.box:not(.pictures) tbody th{position:sticky;left:0;background:var(--card)}
.box:not(.pictures) thead th:first-child{left:0;z-index:2}
.n{text-align:right}
.note{color:var(--soft);font-size:.875rem;margin:.2rem 0 1.2rem;max-width:44rem}
.chart{margin:0 0 1.2rem;border:1px solid var(--line);border-radius:.6rem;background:var(--card);padding:1rem;overflow-x:auto}
.chart svg{display:block;width:100%;min-width:30rem;max-width:46rem;height:auto;margin:0 auto}
.chart svg text{font-family:inherit!important}
.pictures{max-height:none}
.pictures table{width:auto}
.pictures th,.pictures td{padding:.45rem;border:0;vertical-align:middle}
.pictures caption{padding:.7rem .9rem .2rem}
.pictures thead th{text-align:center;box-shadow:none;white-space:normal;max-width:8rem;vertical-align:bottom}
.pictures tbody th{font-size:.8rem;font-weight:500;color:var(--soft);white-space:normal;min-width:5.5rem;max-width:8rem;padding-left:.9rem}
.pictures td{text-align:center;vertical-align:top}
.pictures img{display:block;width:8rem;height:auto;border-radius:.4rem;margin:0 auto}
.pictures span{display:block;white-space:normal;max-width:8rem;margin-inline:auto;font-size:.78rem;color:var(--soft);margin-top:.2rem}
details{margin-top:1rem}
summary{cursor:pointer;color:var(--accent);font-weight:600;margin-bottom:.8rem}
.facts{margin:.8rem 0 0}
.facts div{display:grid;grid-template-columns:13rem 1fr;gap:0 1.2rem;padding:.5rem 0;border-top:1px solid var(--line)}
.facts dt{color:var(--soft)}
.facts dd{margin:0}
footer{color:var(--soft);font-size:.85rem;padding-top:2.5rem;padding-bottom:3rem}
@media (max-width:36rem){header{padding-top:1.8rem}.facts div{grid-template-columns:1fr}th,td{padding:.45rem .7rem}
.chart{padding:.6rem}.box:not(.pictures) tbody th{white-space:normal;min-width:7rem;max-width:8.5rem}}
@media print{.box{max-height:none;overflow:visible}section{break-inside:avoid}}
"""
