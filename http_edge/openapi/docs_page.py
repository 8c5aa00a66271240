"""The page at /docs: the OpenAPI document read by a few lines of script, with nothing from anywhere else.

Everything from the document goes into the page as text, never as markup.
"""

from __future__ import annotations

import base64
import hashlib

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8881}
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:68rem;padding:1rem}
h1{margin:.2em 0}h2{border-bottom:1px solid var(--line);margin-top:2rem}h4{margin:.8em 0 .2em}
code,pre,input,.path{font:13px/1.5 ui-monospace,monospace}
details.op{border:1px solid var(--line);border-radius:6px;margin:.4rem 0;overflow:hidden}
details.op>summary{cursor:pointer;padding:.4rem .7rem;display:flex;gap:.8rem;align-items:baseline;flex-wrap:wrap}
details.op[open]>summary{background:var(--soft)}.in{padding:.2rem .9rem .9rem}
.m{font-weight:700;min-width:4.2rem}.GET{color:#1a7f5a}.POST{color:#2563eb}.PUT{color:#b45309}.DELETE{color:#c0262d}
.old{opacity:.55}.soft{opacity:.75}table{border-collapse:collapse;width:100%}
td,th{border-bottom:1px solid var(--line);text-align:left;vertical-align:top;padding:.2rem .5rem}
pre{background:var(--soft);padding:.6rem;overflow:auto;max-height:26rem;white-space:pre-wrap;word-break:break-word}
input{padding:.2rem .4rem;width:100%;box-sizing:border-box}#find{font-size:1rem;margin:.6rem 0}button{padding:.3rem .9rem;margin:.5rem 0}
"""

_SCRIPT = """
'use strict';
let doc;
const at=ref=>ref.slice(2).split('/').reduce((node,key)=>node[key],doc);
const open=node=>node&&node.$ref?at(node.$ref):node;
function el(tag,attrs,...kids){
  const node=document.createElement(tag);
  for(const[key,value]of Object.entries(attrs||{}))key==='class'?node.className=value:node[key]=value;
  node.append(...kids.filter(kid=>kid!==undefined&&kid!==null));
  return node;
}
function kind(s){
  if(!s||!Object.keys(s).length)return'any';
  if(s.$ref)return s.$ref.split('/').pop();
  if(s.const!==undefined)return JSON.stringify(s.const);
  if(s.enum)return s.enum.map(v=>JSON.stringify(v)).join(' | ');
  if(s.anyOf)return[...new Set(s.anyOf.map(kind))].join(' | ');
  if(s.contentMediaType)return'file';
  let text=s.type||'any';
  if(s.type==='array')text=kind(s.items)+'[]';
  if(s.type==='object'&&s.additionalProperties&&s.additionalProperties!==true)text='{name: '+kind(s.additionalProperties)+'}';
  const low=s.minimum??s.exclusiveMinimum,high=s.maximum;
  if(low!==undefined||high!==undefined)text+=' '+(low??'')+'..'+(high??'');
  return text;
}
function refs(s){return!s?[]:s.$ref?[s.$ref]:[...(s.anyOf||[]).flatMap(refs),...refs(s.items),
  ...(typeof s.additionalProperties==='object'?refs(s.additionalProperties):[])];}
function fields(s,seen){
  const box=el('div');
  for(const ref of new Set(refs(s))){
    if(seen.includes(ref))continue;
    const d=el('details',null,el('summary',null,el('code',null,ref.split('/').pop())));
    d.addEventListener('toggle',()=>{if(d.open&&d.children.length===1)d.append(table(at(ref),[...seen,ref]));});
    box.append(d);
  }
  return box;
}
function table(s,seen){
  const t=el('table');
  if(s.description)t.append(el('caption',{class:'soft'},s.description));
  for(const[name,value]of Object.entries(s.properties||{}))
    t.append(el('tr',null,el('td',null,el('code',null,name),(s.required||[]).includes(name)?' *':''),
      el('td',null,el('code',null,kind(value))),el('td',null,value.description||'',fields(value,seen))));
  return t;
}
function content(map){
  const box=el('div'),groups=new Map();
  for(const[media,c]of Object.entries(map||{})){
    const key=JSON.stringify(c.schema||null);
    groups.set(key,[...(groups.get(key)||[]),media]);
  }
  for(const[key,media]of groups){
    const s=JSON.parse(key);
    box.append(el('div',null,el('code',null,media.join(', ')),s?' ':'',s?el('span',{class:'soft'},kind(s)):null,s?fields(s,[]):null));
  }
  return box;
}
function tryIt(path,params){
  const inputs=params.map(p=>[p,el('input',{placeholder:p.name+(p.required?' *':'')+' ('+p.in+')'})]);
  const key=el('input',{placeholder:'API key, if the service asks for one',type:'password',autocomplete:'off'});
  const out=el('pre',{hidden:true}),run=el('button',{type:'submit'},'Send');
  const form=el('form',null,...inputs.map(([,input])=>input),key,run,out);
  form.addEventListener('submit',async event=>{
    event.preventDefault();
    let url=path,query=new URLSearchParams(),headers={};
    for(const[p,input]of inputs){
      if(p.in==='path')url=url.replace('{'+p.name+'}',encodeURIComponent(input.value));
      else if(input.value&&p.in==='query')query.append(p.name,input.value);
      else if(input.value)headers[p.name]=input.value;
    }
    if(key.value)headers.Authorization='Bearer '+key.value;
    const base=new URL('.',location.href),stop=new AbortController();
    const target=new URL(url.slice(1)+(String(query)?'?'+query:''),base);
    const late=setTimeout(()=>stop.abort(),30000);
    out.hidden=false;out.textContent='…';
    try{
      const r=await fetch(target,{headers,signal:stop.signal}),type=r.headers.get('content-type')||'';
      const head='GET '+target+'\\n'+r.status+' '+r.statusText+'\\n'+type+'\\n\\n';
      if(!/json|text/.test(type)){const b=await r.blob();out.textContent=head+b.size+' bytes';return;}
      if(type.includes('event-stream')){
        out.textContent=head;
        const reader=r.body.pipeThrough(new TextDecoderStream()).getReader();
        for(;;){const{done,value}=await reader.read();if(done)return;out.textContent+=value;}
      }
      const text=await r.text();
      out.textContent=head+(type.includes('json')?JSON.stringify(JSON.parse(text),null,2):text);
    }catch(error){out.textContent+='\\n'+error;}
    finally{clearTimeout(late);}
  });
  return form;
}
function operation(path,method,op){
  const verb=method.toUpperCase(),params=(op.parameters||[]).map(open),body=el('div',{class:'in'});
  const box=el('details',{class:'op'+(op.deprecated?' old':''),id:op.operationId},
    el('summary',null,el('span',{class:'m '+verb},verb),el('span',{class:'path'},path),el('span',{class:'soft'},op.summary)),body);
  box.addEventListener('toggle',()=>{
    if(!box.open||body.children.length)return;
    if(op.description)body.append(el('p',null,op.description));
    if(params.length){
      body.append(el('h4',null,'Parameters'),el('table',null,...params.map(p=>el('tr',null,
        el('td',null,el('code',null,p.name),p.required?' *':''),el('td',null,p.in),el('td',null,el('code',null,kind(p.schema))),
        el('td',null,p.description||'')))));
    }
    if(op.requestBody)body.append(el('h4',null,'Body'),content(op.requestBody.content));
    body.append(el('h4',null,'Answers'),el('table',null,...Object.entries(op.responses).map(([status,r])=>{
      r=open(r);
      return el('tr',null,el('td',null,el('code',null,status)),el('td',null,r.description),el('td',null,content(r.content)));
    })));
    if(method==='get'&&path.startsWith('/'))body.append(el('h4',null,'Try it'),tryIt(path,params));
  });
  return box;
}
function show(){
  const root=document.getElementById('ops'),all=[];
  document.getElementById('title').textContent=doc.info.title+' '+doc.info.version;
  document.getElementById('about').textContent=doc.info.description;
  const groups=new Map(doc.tags.map(tag=>[tag.name,el('section',null,el('h2',null,tag.name),el('p',{class:'soft'},tag.description))]));
  for(const[path,item]of Object.entries(doc.paths))
    for(const[method,op]of Object.entries(item)){
      const node=operation(path,method,op);
      all.push([node,(path+' '+op.summary+' '+op.operationId).toLowerCase()]);
      groups.get(op.tags[0]).append(node);
    }
  const hooks=el('section',null,el('h2',null,'Webhooks'),el('p',{class:'soft'},'What the URL in `webhook` of a request is told.'));
  for(const[name,item]of Object.entries(doc.webhooks))hooks.append(operation(name,'post',item.post));
  root.replaceChildren(...groups.values(),hooks);
  document.getElementById('find').addEventListener('input',event=>{
    const text=event.target.value.toLowerCase();
    for(const[node,words]of all)node.hidden=!words.includes(text);
  });
  const wanted=document.getElementById(location.hash.slice(1));
  if(wanted&&wanted.tagName==='DETAILS'){wanted.open=true;wanted.scrollIntoView();}
}
fetch('openapi.json').then(r=>r.json()).then(d=>{doc=d;show();})
  .catch(error=>{document.getElementById('ops').textContent='openapi.json cannot be read: '+error;});
"""

PAGE = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>Zoetrope API</title><link rel="icon" href="data:,"><style>{_STYLE}</style></head>
<body><h1 id="title">Zoetrope</h1><p id="about"></p><p><a href="openapi.json">openapi.json</a></p>
<input id="find" placeholder="find an operation" aria-label="find an operation">
<main id="ops">…</main><noscript>This page reads openapi.json with JavaScript.</noscript>
<script>{_SCRIPT}</script></body></html>
"""


def _source(text: str) -> str:
    """Text as a content security policy names it: by its digest."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


#: Nothing from elsewhere, nothing that is not ours, in nobody's frame.
POLICY = (
    f"default-src 'none'; script-src {_source(_SCRIPT)}; style-src {_source(_STYLE)}; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
